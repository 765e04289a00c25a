//! flowmate
