//! Message path streams: positions, receipt and settlement, credits, resume and replay.
