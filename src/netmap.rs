//! The NETMAP file.
