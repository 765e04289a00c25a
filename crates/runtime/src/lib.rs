//! flowmate-runtime
