//! gRPC over Unix sockets: dialling, serving, peer checks, the node table.
