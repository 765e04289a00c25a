//! flowmate-execution-log
