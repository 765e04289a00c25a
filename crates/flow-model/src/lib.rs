//! flowmate-flow-model
