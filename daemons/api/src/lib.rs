//! API daemon: HTTP for applications and operators, webhooks.
