//! flowmate-webhook
