//! Microsoft Graph, or a server that speaks as it does, as the source of trust configurations.

pub mod wire;
