//! Rank 7: the commands.
