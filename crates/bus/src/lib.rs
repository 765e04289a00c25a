//! flowmate-bus
