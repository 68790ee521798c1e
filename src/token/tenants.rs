//! Selection of a trust domain by the tenant in the token path of Entra ID.

use std::sync::Arc;

use crate::trust::judge::devices::Scope;

/// The trust domains that a token path can select.
///
/// With one directory, every tenant is accepted and selects nothing.  With several, the tenant is the name of
/// a directory or the tenant of its credential, without regard to letter case.  Several directories of one
/// tenant are selected together.
#[derive(Debug, Clone, Default)]
pub struct Tenants {
    /// A name and the directory that it selects.
    names: Vec<(String, Arc<str>)>,
    several: bool,
}

impl Tenants {
    /// Creates a selection of these directories, each with the tenant of its credential.
    pub fn new(directories: &[(Arc<str>, Option<String>)]) -> Self {
        let mut names = Vec::new();
        for (directory, tenant) in directories {
            names.push((directory.to_string(), Arc::clone(directory)));
            names.extend(tenant.iter().map(|tenant| (tenant.clone(), Arc::clone(directory))));
        }
        Self { names, several: directories.len() > 1 }
    }

    /// Returns the domains that a tenant selects, or `None` if it is unknown.
    pub fn select(&self, tenant: &str) -> Option<Scope> {
        if !self.several {
            return Some(Scope::All);
        }
        let is_named = |(name, _): &&(String, Arc<str>)| name.eq_ignore_ascii_case(tenant);
        let mut domains: Vec<Arc<str>> =
            self.names.iter().filter(is_named).map(|(_, domain)| Arc::clone(domain)).collect();
        domains.dedup();
        (!domains.is_empty()).then_some(Scope::Only(domains))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_accepts_every_tenant() {
        let one = Tenants::new(&[("hub".into(), Some("contoso.example".into()))]);
        for tenants in [Tenants::default(), one] {
            assert_eq!(tenants.select("contoso.example"), Some(Scope::All));
            assert_eq!(tenants.select("common"), Some(Scope::All));
        }
    }

    #[test]
    fn a_tenant_selects_the_directories_that_it_names() {
        let tenant = |text: &str| Some(text.to_owned());
        let tenants = Tenants::new(&[
            ("a".into(), tenant("contoso.example")),
            ("b".into(), tenant("fabrikam.example")),
            ("c".into(), tenant("contoso.example")),
            ("d".into(), None),
            ("e".into(), tenant("e")),
        ]);
        let only =
            |domains: &[&str]| Some(Scope::Only(domains.iter().map(|d| (*d).into()).collect()));
        assert_eq!(tenants.select("B"), only(&["b"]));
        assert_eq!(tenants.select("Fabrikam.Example"), only(&["b"]));
        assert_eq!(tenants.select("contoso.example"), only(&["a", "c"]));
        assert_eq!(tenants.select("d"), only(&["d"]));
        assert_eq!(tenants.select("e"), only(&["e"]));
        for unknown in ["common", "f", "a%20", ""] {
            assert_eq!(tenants.select(unknown), None, "{unknown}");
        }
        let Some(scope) = tenants.select("b") else { panic!("known") };
        assert_eq!(["a", "b", "B"].map(|domain| scope.contains(domain)), [false, true, false]);
        assert!(Scope::All.contains("a"));
    }
}
