//! Certificate fields that `tlsClientAuthParameter` of Microsoft Graph can name (RFC 8705 section
//! 2.1.2).

/// Certificate field that identifies a device.
///
/// The discriminant is the number of the value in the CSDL of Microsoft Graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SubjectField {
    /// Distinguished name of the subject.
    SubjectDn = 0,
    /// dNSName of subjectAltName.
    SanDns = 1,
    /// uniformResourceIdentifier of subjectAltName.
    SanUri = 2,
    /// iPAddress of subjectAltName.
    SanIp = 3,
    /// rfc822Name of subjectAltName.
    SanEmail = 4,
}

impl SubjectField {
    /// All fields.
    pub const ALL: [Self; 5] =
        [Self::SubjectDn, Self::SanDns, Self::SanUri, Self::SanIp, Self::SanEmail];

    /// Returns the name in Microsoft Graph and RFC 8705.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SubjectDn => "tls_client_auth_subject_dn",
            Self::SanDns => "tls_client_auth_san_dns",
            Self::SanUri => "tls_client_auth_san_uri",
            Self::SanIp => "tls_client_auth_san_ip",
            Self::SanEmail => "tls_client_auth_san_email",
        }
    }

    /// Returns the name of the value in X.509.
    pub(crate) const fn general_name(self) -> &'static str {
        match self {
            Self::SubjectDn => "subject name",
            Self::SanDns => "dNSName",
            Self::SanUri => "uniformResourceIdentifier",
            Self::SanIp => "iPAddress",
            Self::SanEmail => "rfc822Name",
        }
    }

    /// Returns the field with this name.  Letter case and underscores do not count, because the
    /// documentation of Graph varies in both.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = |s: &str| s.replace('_', "").to_ascii_lowercase();
        Self::ALL.into_iter().find(|field| plain(field.as_str()) == plain(name))
    }

    /// Returns the field with this number in the CSDL of Graph.
    pub(crate) fn from_csdl_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|field| *field as u64 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_every_spelling_of_graph() {
        for field in SubjectField::ALL {
            assert_eq!(SubjectField::parse(field.as_str()), Some(field));
        }
        assert_eq!(SubjectField::parse("tlsClientAuthSanDns"), Some(SubjectField::SanDns));
        assert_eq!(SubjectField::parse("tls_client_auth_san_dn"), None);
        assert_eq!(SubjectField::parse("unknownFutureValue"), None);
        assert_eq!(SubjectField::parse(""), None);
    }

    #[test]
    fn csdl_numbers_are_those_of_graph() {
        let numbered = (0..6).map(SubjectField::from_csdl_number);
        let [subject, dns, uri, ip, email] = SubjectField::ALL.map(Some);
        assert!(numbered.eq([subject, dns, uri, ip, email, None]));
    }
}
