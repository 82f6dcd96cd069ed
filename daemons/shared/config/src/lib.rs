//! The whole configuration file: schema, defaults, environment, validation.
