//! Microsoft's clouds: where a tenant's directory and its tokens are.

use url::Url;

use crate::graph::auth::TokenEndpoint;

/// Microsoft's clouds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// The one that everybody means.
    Global,
    /// US government, level 4.
    UsGov,
    /// US government, level 5 (DoD).
    Dod,
    /// China, by 21Vianet.
    China,
}

impl Cloud {
    /// All clouds.
    pub const ALL: [Self; 4] = [Self::Global, Self::UsGov, Self::Dod, Self::China];

    /// Name in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::UsGov => "usgov",
            Self::Dod => "dod",
            Self::China => "china",
        }
    }

    /// The cloud whose Graph is at `base`.
    pub fn of(base: &Url) -> Option<Self> {
        let graph = |cloud: &Self| Url::parse(cloud.hosts().0).ok().map(|url| url.origin());
        Self::ALL.into_iter().find(|cloud| graph(cloud) == Some(base.origin()))
    }

    /// Graph's root and the authority for tokens.
    pub fn hosts(self) -> (&'static str, &'static str) {
        match self {
            Self::Global => ("https://graph.microsoft.com", "https://login.microsoftonline.com"),
            Self::UsGov => ("https://graph.microsoft.us", "https://login.microsoftonline.us"),
            Self::Dod => ("https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
            Self::China => {
                ("https://microsoftgraph.chinacloudapi.cn", "https://login.chinacloudapi.cn")
            }
        }
    }

    /// Only the global cloud has mutualTlsOauthConfigurations.
    pub fn has_mutual_tls(self) -> bool {
        self == Self::Global
    }

    /// The token endpoint of a tenant and the scope of Graph, for a client.
    pub fn endpoint(self, tenant: &str, client_id: &str) -> Option<TokenEndpoint> {
        let (graph, authority) = self.hosts();
        let mut url = Url::parse(authority).ok()?;
        url.path_segments_mut().ok()?.clear().extend([tenant, "oauth2", "v2.0", "token"]);
        Some(TokenEndpoint { url, client_id: client_id.into(), scope: format!("{graph}/.default") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_has_its_endpoint() {
        let endpoint = Cloud::Global.endpoint("contoso.example", "app-1").expect("an endpoint");
        assert_eq!(
            endpoint.url.as_str(),
            "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token"
        );
        assert_eq!(endpoint.scope, "https://graph.microsoft.com/.default");
        let hostile = Cloud::Global.endpoint("../x?y", "app").expect("an endpoint");
        assert_eq!(hostile.url.path(), "/..%2Fx%3Fy/oauth2/v2.0/token");
    }
}
