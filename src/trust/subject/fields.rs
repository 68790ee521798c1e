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

    /// What X.509 calls the value.
    pub const fn general_name(self) -> &'static str {
        match self {
            Self::SubjectDn => "subject name",
            Self::SanDns => "dNSName",
            Self::SanUri => "uniformResourceIdentifier",
            Self::SanIp => "iPAddress",
            Self::SanEmail => "rfc822Name",
        }
    }

    /// The field of that name; letter case and underscores do not count, since Graph's own
    /// documentation loses both.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = |s: &str| s.replace('_', "").to_ascii_lowercase();
        Self::ALL.into_iter().find(|field| plain(field.as_str()) == plain(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_every_spelling_graph_uses() {
        for field in SubjectField::ALL {
            assert_eq!(SubjectField::parse(field.as_str()), Some(field));
        }
        assert_eq!(SubjectField::parse("tlsClientAuthSanDns"), Some(SubjectField::SanDns));
        assert_eq!(SubjectField::parse("tls_client_auth_san_dn"), None);
        assert_eq!(SubjectField::parse("unknownFutureValue"), None);
        assert_eq!(SubjectField::parse(""), None);
    }
}
