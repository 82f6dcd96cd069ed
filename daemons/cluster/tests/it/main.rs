//! Tests of the cluster daemon through its public parts: machines alone, a node in process, the real binary.

mod apply;
mod client;
mod crash;
mod node;
mod start;
