//! flowmate-devtools
