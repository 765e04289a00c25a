//! Which expressions are cheap, whatever their input: a bound on what an evaluation costs and makes, as a function of the
//! input's size, read off the expression. What is not known here is not cheap.
//!
//! **Weight** measures a value: 16 for it and each value inside, and the bytes of its texts, keys and numbers. A part of
//! the input weighs no more than the input, and the items of a list together no more than the list, so a list of weight
//! `w` has at most `w / 16` items. Costs and weights are linear in the weight of the context (`$`); where an expression
//! is evaluated for each item of a list, they add up to something linear in the weight of the list. What does not
//! depend on the item, such as `$$` or a variable from outside, counts with its largest weight for every item, so that
//! nested loops over the same data become as expensive as they are.
//!
//! One unit of **cost** is a step of the engine, about a tenth of a microsecond.

mod estimate;
mod natives;

use jsonata_core::ast::{AstNode, BinaryOp, PathStep, Stage};

use self::estimate::{Estimate, Kind, Linear, SCALAR};

/// What an expression may cost where it stands: some milliseconds at the very worst.
const BUDGET: f64 = 100_000.0;
/// Of a value without what it holds.
const VALUE: f64 = 16.0;
/// Levels of an expression that are looked at.
const DEPTH: usize = 64;
/// The smallest and the largest input asked about, as powers of two.
const POWERS: std::ops::Range<u32> = 8..26;

/// Up to which weight of its input `ast` is cheap; 0 where it never is.
pub(super) fn cheap_up_to(ast: &AstNode) -> usize {
    let is_cheap = |weight: usize| {
        #[expect(clippy::cast_precision_loss, reason = "a bound on sizes")]
        let weight = weight as f64;
        let estimate = Walk::new(weight).value(ast);
        estimate.is_some_and(|estimate| estimate.cost.at(weight) + weight / VALUE <= BUDGET)
    };
    let powers: Vec<usize> = POWERS.map(|power| 1 << power).collect();
    let cheap = powers.partition_point(|weight| is_cheap(*weight));
    cheap
        .checked_sub(1)
        .and_then(|last| powers.get(last))
        .copied()
        .unwrap_or(0)
}

/// Whether `text`, which is JSON, weighs no more than `most`.
pub(super) fn is_within(text: &str, most: usize) -> bool {
    let bytes = text.len();
    if bytes.saturating_mul(16).saturating_add(15) <= most {
        return true;
    }
    // Each value is the first of all, the first in a list or object, or behind a comma. Those inside texts only add.
    let values = || {
        1 + text
            .bytes()
            .filter(|byte| matches!(byte, b',' | b'[' | b'{'))
            .count()
    };
    bytes <= most && bytes + 15 * values() <= most
}

struct Variable<'a> {
    name: &'a str,
    frame: usize,
    weight: Linear,
    kind: Kind,
}

/// Something that is evaluated for each item of a list, or the whole.
struct Frame {
    /// The largest weight of what slopes refer to.
    most: f64,
    /// The context's weight.
    context: Linear,
}

struct Walk<'a> {
    frames: Vec<Frame>,
    variables: Vec<Variable<'a>>,
    /// Names of all variables so far, those whose block has ended too.
    given: Vec<&'a str>,
    depth: usize,
    root: f64,
}

impl<'a> Walk<'a> {
    fn new(root: f64) -> Self {
        Self {
            frames: vec![Frame {
                most: root,
                context: Linear::CONTEXT,
            }],
            variables: Vec::new(),
            given: Vec::new(),
            depth: 0,
            root,
        }
    }

    fn context(&self) -> Linear {
        self.frames.last().map_or(Linear::NONE, |frame| frame.context)
    }

    /// The largest that `linear` becomes in the present frame.
    fn most(&self, linear: Linear) -> f64 {
        self.frames
            .last()
            .map_or(f64::INFINITY, |frame| linear.at(frame.most))
    }

    fn value(&mut self, node: &'a AstNode) -> Option<Estimate> {
        if self.depth >= DEPTH {
            return None;
        }
        self.depth += 1;
        let estimate = self.node(node);
        self.depth -= 1;
        estimate
    }

    fn node(&mut self, node: &'a AstNode) -> Option<Estimate> {
        let constant = |weight, kind| Some(Estimate::of(Linear::NONE, Linear::fixed(weight), kind));
        match node {
            AstNode::String(text) => constant(VALUE + bytes(text), Kind::Text),
            AstNode::Number(_) | AstNode::Boolean(_) | AstNode::Null | AstNode::Undefined => {
                constant(SCALAR, Kind::Scalar)
            }
            AstNode::Name(_) | AstNode::Wildcard => {
                let context = self.context();
                Some(Estimate::of(context.handled(), context, Kind::Any))
            }
            AstNode::Variable(name) => self.variable(name),
            AstNode::ParentVariable(name) if name.is_empty() => constant(self.root, Kind::Any),
            AstNode::Path { steps } => self.path(steps),
            AstNode::Binary { op, lhs, rhs } => self.binary(*op, lhs, rhs),
            AstNode::Unary { operand, .. } => Some(self.value(operand)?.walked()),
            AstNode::Function {
                name,
                args,
                is_builtin: true,
            } => self.native(name, &args.iter().collect::<Vec<_>>()),
            AstNode::Array(items) | AstNode::ArrayGroup(items) => self.all(items),
            AstNode::Object(pairs) => {
                let context = self.context();
                let items = Estimate::of(Linear::NONE, context, Kind::Any);
                self.object(items, pairs)
            }
            AstNode::ObjectTransform { input, pattern } => {
                let items = self.value(input)?;
                let one = |walk: &mut Self| walk.grouped(pattern);
                self.each(items, one)
            }
            AstNode::Block(nodes) => {
                let known = self.variables.len();
                let all = self.sequence(nodes);
                self.variables.truncate(known);
                all
            }
            AstNode::FunctionApplication(inner) => self.value(inner),
            AstNode::Conditional {
                condition,
                then_branch,
                else_branch,
            } => {
                let condition = self.value(condition)?.walked();
                let first = self.value(then_branch)?;
                let second = match else_branch {
                    Some(branch) => self.value(branch)?,
                    None => Estimate::of(Linear::NONE, Linear::NONE, first.kind),
                };
                let either = either(first, second);
                Some(Estimate {
                    cost: either.cost.plus(condition.cost),
                    ..either
                })
            }
            // Loops of their own kind, calls of what is not known, and what searches everything.
            AstNode::Function { .. }
            | AstNode::Placeholder
            | AstNode::Regex { .. }
            | AstNode::ParentVariable(_)
            | AstNode::Call { .. }
            | AstNode::Lambda { .. }
            | AstNode::Descendant
            | AstNode::Parent(_)
            | AstNode::Sort { .. }
            | AstNode::Transform { .. } => None,
        }
    }

    fn variable(&self, name: &str) -> Option<Estimate> {
        if name.is_empty() {
            return Some(Estimate::of(Linear::NONE, self.context(), Kind::Any));
        }
        let known = self.variables.iter().rev().find(|known| known.name == name)?;
        let weight = if known.frame + 1 == self.frames.len() {
            known.weight
        } else {
            Linear::fixed(known.weight.at(self.frames.get(known.frame)?.most))
        };
        Some(Estimate::of(Linear::NONE, weight, known.kind))
    }

    fn bind(&mut self, name: &'a str, weight: Linear, kind: Kind) {
        let frame = self.frames.len() - 1;
        self.variables.push(Variable {
            name,
            frame,
            weight,
            kind,
        });
    }

    /// `body` for each of `items`.
    fn each(
        &mut self,
        items: Estimate,
        body: impl FnOnce(&mut Self) -> Option<Estimate>,
    ) -> Option<Estimate> {
        self.framed(items, Linear::CONTEXT, body)
    }

    fn framed(
        &mut self,
        items: Estimate,
        context: Linear,
        body: impl FnOnce(&mut Self) -> Option<Estimate>,
    ) -> Option<Estimate> {
        let known = self.variables.len();
        let most = self.most(items.weight);
        self.frames.push(Frame { most, context });
        let one = body(self);
        self.frames.pop();
        self.variables.truncate(known);
        let one = one?;
        let (count, together) = (items.weight.count(), items.weight);
        let sum = |linear: Linear| count.times(linear.fixed).plus(together.times(linear.slope));
        Some(Estimate::of(
            items.cost.plus(count).plus(sum(one.cost)),
            sum(one.weight).plus(Linear::fixed(VALUE)),
            Kind::Any,
        ))
    }

    fn path(&mut self, steps: &'a [PathStep]) -> Option<Estimate> {
        let mut reached: Option<Estimate> = None;
        for step in steps {
            let binds = step.focus.is_some() || step.index_var.is_some() || step.ancestor_label.is_some();
            if binds || step.is_tuple || step.inner_tuple {
                return None;
            }
            let from = match reached {
                None if matches!(step.node, AstNode::Variable(_) | AstNode::ParentVariable(_)) => None,
                None => Some(Estimate::of(Linear::NONE, self.context(), Kind::Any)),
                known => known,
            };
            let mut to = match (from, &step.node) {
                (None, node) => self.value(node)?,
                // A field of all items weighs no more than the items.
                (Some(from), AstNode::Name(_) | AstNode::Wildcard) => {
                    Estimate::of(from.cost.plus(from.weight.handled()), from.weight, Kind::Any)
                }
                (Some(from), node) => self.each(from, |walk| walk.value(node))?,
            };
            for stage in &step.stages {
                to = match stage {
                    Stage::KeepArray => to,
                    Stage::Filter(predicate) => self.filter(to, predicate)?,
                    Stage::Index(_) => return None,
                };
            }
            reached = Some(to);
        }
        reached
    }

    /// The items for which `predicate` holds; where it may be a list of positions, an item may come once for each.
    fn filter(&mut self, items: Estimate, predicate: &'a AstNode) -> Option<Estimate> {
        let mut times = 1.0;
        let tested = self.each(items, |walk| {
            let test = walk.value(predicate)?;
            if test.kind == Kind::Any {
                times = walk.most(test.weight) / VALUE + 1.0;
            }
            Some(test)
        })?;
        Some(Estimate::of(tested.cost, items.weight.times(times), Kind::Any))
    }

    /// An object for the items of `items`, grouped by its keys. A key that is a text has one group, of all.
    fn object(&mut self, items: Estimate, pairs: &'a [(AstNode, AstNode)]) -> Option<Estimate> {
        if !pairs.iter().all(|(key, _)| matches!(key, AstNode::String(_))) {
            return self.each(items, |walk| walk.grouped(pairs));
        }
        let (mut cost, mut weight) = (items.weight.handled(), Linear::fixed(VALUE));
        for (key, value) in pairs {
            let (key, value) = (self.value(key)?, self.value(value)?);
            cost = cost.plus(key.cost).plus(value.cost).plus(items.weight.handled());
            weight = weight.plus(key.weight).plus(value.weight);
        }
        Some(Estimate::of(cost, weight, Kind::Any))
    }

    /// What one item or group adds to an object.
    fn grouped(&mut self, pairs: &'a [(AstNode, AstNode)]) -> Option<Estimate> {
        let (mut cost, mut weight) = (Linear::NONE, Linear::fixed(VALUE));
        for (key, value) in pairs {
            let (key, value) = (self.value(key)?, self.value(value)?);
            cost = cost.plus(key.cost).plus(value.cost).plus(Linear::fixed(2.0));
            weight = weight.plus(key.weight).plus(value.weight);
        }
        Some(Estimate::of(cost, weight, Kind::Any))
    }

    fn all(&mut self, nodes: &'a [AstNode]) -> Option<Estimate> {
        let (mut cost, mut weight) = (Linear::NONE, Linear::fixed(VALUE));
        for node in nodes {
            let one = self.value(node)?;
            cost = cost.plus(one.cost);
            weight = weight.plus(one.weight);
        }
        Some(Estimate::of(cost, weight, Kind::Any))
    }

    fn sequence(&mut self, nodes: &'a [AstNode]) -> Option<Estimate> {
        let mut cost = Linear::NONE;
        let mut last = Estimate::of(Linear::NONE, Linear::NONE, Kind::Any);
        for node in nodes {
            last = self.value(node)?;
            cost = cost.plus(last.cost);
        }
        Some(Estimate { cost, ..last })
    }

    fn binary(&mut self, op: BinaryOp, lhs: &'a AstNode, rhs: &'a AstNode) -> Option<Estimate> {
        match op {
            BinaryOp::ColonEqual => {
                let AstNode::Variable(name) = lhs else { return None };
                // A name that is given twice would need the engine's scopes.
                if self.given.contains(&name.as_str()) {
                    return None;
                }
                self.given.push(name);
                let value = self.value(rhs)?;
                self.bind(name, value.weight, value.kind);
                return Some(value);
            }
            BinaryOp::ChainPipe => {
                return match rhs {
                    AstNode::Function {
                        name,
                        args,
                        is_builtin: true,
                    } => self.native(name, &std::iter::once(lhs).chain(args).collect::<Vec<_>>()),
                    AstNode::Variable(name) => self.native(name, &[lhs]),
                    _ => None,
                };
            }
            _ => {}
        }
        let (left, right) = (self.value(lhs)?, self.value(rhs)?);
        let cost = left.cost.plus(right.cost);
        Some(match op {
            BinaryOp::Concatenate => {
                let text = left.as_text().plus(right.as_text());
                Estimate::of(cost.plus(text.handled()), text, Kind::Text)
            }
            BinaryOp::Coalesce | BinaryOp::Default => either(left, right),
            BinaryOp::Add
            | BinaryOp::Subtract
            | BinaryOp::Multiply
            | BinaryOp::Divide
            | BinaryOp::Modulo
            | BinaryOp::Equal
            | BinaryOp::NotEqual
            | BinaryOp::LessThan
            | BinaryOp::LessThanOrEqual
            | BinaryOp::GreaterThan
            | BinaryOp::GreaterThanOrEqual
            | BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::In => {
                let walked = left.weight.handled().plus(right.weight.handled());
                Estimate::of(cost.plus(walked), Linear::fixed(SCALAR), Kind::Scalar)
            }
            BinaryOp::Range
            | BinaryOp::ColonEqual
            | BinaryOp::FocusBind
            | BinaryOp::IndexBind
            | BinaryOp::ChainPipe => return None,
        })
    }
}

fn either(first: Estimate, second: Estimate) -> Estimate {
    let kind = if first.kind == second.kind {
        first.kind
    } else {
        Kind::Any
    };
    Estimate::of(
        first.cost.plus(second.cost),
        first.weight.plus(second.weight),
        kind,
    )
}

fn bytes(text: &str) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a bound on sizes")]
    let bytes = text.len() as f64;
    bytes
}
