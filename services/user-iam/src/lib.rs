//! flowmate-user-iam
