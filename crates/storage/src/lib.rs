//! flowmate-storage
