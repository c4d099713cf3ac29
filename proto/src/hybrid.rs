//! Hybrid Connections: the control-channel messages and the addresses, as Azure Relay speaks them.
