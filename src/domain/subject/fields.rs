//! The five certificate fields that Graph's `tlsClientAuthParameter` can name (RFC 8705 section 2.1.2).

/// A certificate field that identifies a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SubjectField {
    /// The subject's distinguished name.
    SubjectDn,
    /// The dNSName of subjectAltName.
    SanDns,
    /// The uniformResourceIdentifier of subjectAltName.
    SanUri,
    /// The iPAddress of subjectAltName.
    SanIp,
    /// The rfc822Name of subjectAltName.
    SanEmail,
}

impl SubjectField {
    /// Every field.
    pub const ALL: [Self; 5] =
        [Self::SubjectDn, Self::SanDns, Self::SanUri, Self::SanIp, Self::SanEmail];

    /// The name Graph and RFC 8705 give it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SubjectDn => "tls_client_auth_subject_dn",
            Self::SanDns => "tls_client_auth_san_dns",
            Self::SanUri => "tls_client_auth_san_uri",
            Self::SanIp => "tls_client_auth_san_ip",
            Self::SanEmail => "tls_client_auth_san_email",
        }
    }

    /// The field of that name; letter case and underscores do not count, since Graph's own
    /// documentation loses both.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = |s: &str| s.replace('_', "").to_ascii_lowercase();
        Self::ALL.into_iter().find(|field| plain(field.as_str()) == plain(name))
    }
}
