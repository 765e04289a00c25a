//! flowmate-gateway
