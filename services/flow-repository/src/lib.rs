//! flowmate-flow-repository
