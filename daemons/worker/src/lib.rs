//! Event pools: user, channel and push workers.
