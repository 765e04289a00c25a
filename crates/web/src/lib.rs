//! flowmate-web
