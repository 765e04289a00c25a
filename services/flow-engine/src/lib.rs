//! flowmate-flow-engine
