//! flowmate-connectors
