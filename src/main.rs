//! The `anchorgate` program.

fn main() {}
