//! flowmate-template-repository
