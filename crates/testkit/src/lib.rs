//! flowmate-testkit
