//! Pure rules about flows: which graphs are valid and in which words they are refused, what an expression yields,
//! and the plan that a flow compiles into. No I/O.

pub mod cron;
pub mod expression;
pub mod moment;
pub mod plan;
pub mod template_text;
pub mod validate;
pub mod webhooks;

pub use expression::{Expression, ExpressionError};
pub use moment::{Evaluator, Host, Moment};
pub use plan::{Catalogue, Plan, Step};
