//! Microsoft's clouds, with the addresses of their Graph and their token endpoints.

use url::Url;

use crate::graph::auth::credential::TokenEndpoint;

/// A Microsoft cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// The public cloud.
    Global,
    /// US government, level 4.
    UsGov,
    /// US government, level 5 (DoD).
    Dod,
    /// China, operated by 21Vianet.
    China,
}

/// Properties of one cloud.
struct Properties {
    name: &'static str,
    graph: &'static str,
    login: &'static str,
}

impl Cloud {
    /// All clouds.
    pub const ALL: [Self; 4] = [Self::Global, Self::UsGov, Self::Dod, Self::China];

    const fn properties(self) -> Properties {
        let (name, graph, login) = match self {
            Self::Global => {
                ("global", "https://graph.microsoft.com", "https://login.microsoftonline.com")
            }
            Self::UsGov => {
                ("usgov", "https://graph.microsoft.us", "https://login.microsoftonline.us")
            }
            Self::Dod => {
                ("dod", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us")
            }
            Self::China => (
                "china",
                "https://microsoftgraph.chinacloudapi.cn",
                "https://login.chinacloudapi.cn",
            ),
        };
        Properties { name, graph, login }
    }

    /// Name in settings.
    pub const fn as_str(self) -> &'static str {
        self.properties().name
    }

    /// Root of Microsoft Graph.
    pub const fn graph(self) -> &'static str {
        self.properties().graph
    }

    /// Root of the token endpoints.
    pub const fn login(self) -> &'static str {
        self.properties().login
    }

    /// Returns the cloud whose Graph is at `base`.
    pub fn of(base: &Url) -> Option<Self> {
        let graph = |cloud: Self| Url::parse(cloud.graph()).ok().map(|url| url.origin());
        Self::ALL.into_iter().find(|cloud| graph(*cloud) == Some(base.origin()))
    }

    /// True if Graph of this cloud has mutualTlsOauthConfigurations.
    pub(crate) fn has_mutual_tls(self) -> bool {
        self == Self::Global
    }

    /// Returns the token endpoint of a tenant, with the scope of Graph.
    pub fn endpoint(self, tenant: &str, client_id: &str) -> Option<TokenEndpoint> {
        let mut url = Url::parse(self.login()).ok()?;
        url.path_segments_mut().ok()?.clear().extend([tenant, "oauth2", "v2.0", "token"]);
        let scope = format!("{}/.default", self.graph());
        Some(TokenEndpoint { url, client_id: client_id.into(), scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_the_token_endpoint_of_a_tenant() {
        let endpoint = Cloud::Global.endpoint("contoso.example", "app-1").expect("an endpoint");
        assert_eq!(
            endpoint.url.as_str(),
            "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token"
        );
        assert_eq!(endpoint.scope, "https://graph.microsoft.com/.default");
        let hostile = Cloud::Global.endpoint("../x?y", "app").expect("an endpoint");
        assert_eq!(hostile.url.path(), "/..%2Fx%3Fy/oauth2/v2.0/token");
    }

    #[test]
    fn recognizes_every_cloud_by_its_graph() {
        for cloud in Cloud::ALL {
            let base = Url::parse(cloud.graph()).expect("a URL").join("/beta").expect("a URL");
            assert_eq!(Cloud::of(&base), Some(cloud));
        }
    }
}
