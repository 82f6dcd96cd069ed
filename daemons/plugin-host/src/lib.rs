//! Plugin host daemon: plugins as processes.
