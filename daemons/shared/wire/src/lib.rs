//! Client wire protocol, sans I/O: binary frames of versions 1 to 6, JSON-RPC, key agreement and payload crypto.
