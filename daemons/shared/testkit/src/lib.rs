//! What tests share: clients, process harness, faults, SDK drivers.
