//! Offloads that spoil frames before an XDP program sees them, and what can be done where a driver has them fixed.

