//! Who a certificate speaks for: the one value of the field that its configuration names.

pub mod fields;

pub use fields::SubjectField;

/// The canonical value of a subject field.  Two IDs of one field are equal when their texts are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubjectId {
    field: SubjectField,
    value: String,
}

impl SubjectId {
    /// Which field the value comes from.
    pub fn field(&self) -> SubjectField {
        self.field
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.value
    }
}
