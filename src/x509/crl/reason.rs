//! Revocation reasons, and the sets of reasons that lists and distribution points cover.

use std::fmt;

use crate::x509::der::{self, DerError};

/// CRLReason (RFC 5280 section 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// unspecified, or no reasonCode.
    Unspecified = 0,
    /// keyCompromise.
    KeyCompromise = 1,
    /// cACompromise.
    CaCompromise = 2,
    /// affiliationChanged.
    AffiliationChanged = 3,
    /// superseded.
    Superseded = 4,
    /// cessationOfOperation.
    CessationOfOperation = 5,
    /// certificateHold, which can be lifted.
    CertificateHold = 6,
    /// removeFromCRL: in a delta, the certificate is no longer on hold or has expired.
    RemoveFromCrl = 8,
    /// privilegeWithdrawn.
    PrivilegeWithdrawn = 9,
    /// aACompromise.
    AaCompromise = 10,
}

impl Reason {
    /// Returns the reason with this number.  Number 7 is not used.
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Unspecified,
            1 => Self::KeyCompromise,
            2 => Self::CaCompromise,
            3 => Self::AffiliationChanged,
            4 => Self::Superseded,
            5 => Self::CessationOfOperation,
            6 => Self::CertificateHold,
            8 => Self::RemoveFromCrl,
            9 => Self::PrivilegeWithdrawn,
            10 => Self::AaCompromise,
            _ => return None,
        })
    }

    /// Returns the name in RFC 5280.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::CertificateHold => "certificateHold",
            Self::RemoveFromCrl => "removeFromCRL",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
            Self::AaCompromise => "aACompromise",
        }
    }

    /// Severity, lowest number first: revoked, on hold, removed.  Of two entries for one
    /// certificate the more severe one counts.
    pub(super) const fn rank(self) -> u8 {
        match self {
            Self::CertificateHold => 1,
            Self::RemoveFromCrl => 2,
            _ => 0,
        }
    }

    pub(super) const fn more_severe(self, other: Self) -> Self {
        if other.rank() < self.rank() { other } else { self }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// ReasonFlags (RFC 5280 section 4.2.1.13): the reasons that a distribution point or a list covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reasons(u16);

impl Reasons {
    /// keyCompromise (1) to aACompromise (8).
    pub(crate) const ALL: Self = Self(0x1fe);
    pub(crate) const NONE: Self = Self(0);

    /// Parses the contents of a BIT STRING.
    pub(super) fn read(bits: &[u8]) -> Result<Self, DerError> {
        Ok(Self(der::named_bits(bits)? & Self::ALL.0))
    }

    /// Returns the intersection.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the union.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn is_all(self) -> bool {
        self == Self::ALL
    }
}

/// The names in RFC 5280 section 5.3.1, separated by commas.
impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In the order of the bits of ReasonFlags.  Bit 0 is not used.
        const FLAGS: [Reason; 8] = [
            Reason::KeyCompromise,
            Reason::CaCompromise,
            Reason::AffiliationChanged,
            Reason::Superseded,
            Reason::CessationOfOperation,
            Reason::CertificateHold,
            Reason::PrivilegeWithdrawn,
            Reason::AaCompromise,
        ];
        let mut between = "";
        for (flag, reason) in FLAGS.into_iter().enumerate() {
            if self.0 & (2 << flag) != 0 {
                write!(f, "{between}{reason}")?;
                between = ", ";
            }
        }
        if between.is_empty() { f.write_str("no reason") } else { Ok(()) }
    }
}
