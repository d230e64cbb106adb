//! Promises of the table of protocols.
