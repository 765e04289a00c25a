//! What the functions cost of which that is known.

use jsonata_core::ast::AstNode;

use super::{Estimate, Kind, Linear, SCALAR, VALUE, Walk};

/// Bytes of a picture of `$formatNumber` and such.
const PICTURE: usize = 128;
/// Weight of what such a picture makes.
const PICTURED: f64 = 8_192.0;
/// What `$pad` may make in place, in characters.
const PAD: f64 = 1_000.0;
/// Digits that `$round` may be asked for in place.
const DIGITS: f64 = 20.0;

impl<'a> Walk<'a> {
    /// A call of the function `name`.
    pub(super) fn native(&mut self, name: &str, args: &[&'a AstNode]) -> Option<Estimate> {
        if matches!(name, "map" | "filter") {
            return self.over_items(name, args);
        }
        let mut given = Vec::with_capacity(args.len());
        for arg in args {
            given.push(self.value(arg)?);
        }
        // Where an argument is missing, the context may stand for it.
        let context = Estimate::of(Linear::NONE, self.context(), Kind::Any);
        let most = arguments(name)?;
        if given.len() > most {
            return None;
        }
        let missing = (given.len() < most && !matches!(name, "now" | "join")).then_some(context);
        let all = || given.iter().chain(&missing);
        let cost = all().fold(Linear::fixed(2.0), |sum, one| {
            sum.plus(one.cost).plus(one.weight.handled())
        });
        let weight = all().fold(Linear::fixed(VALUE), |sum, one| sum.plus(one.weight));
        let text = all().fold(Linear::fixed(VALUE), |sum, one| sum.plus(one.as_text()));
        let made = |weight: Linear, kind| Some(Estimate::of(cost, weight, kind));
        match name {
            "sum" | "count" | "max" | "min" | "average" | "length" | "number" | "abs" | "floor" | "ceil"
            | "power" | "sqrt" | "boolean" | "not" | "exists" | "contains" | "toMillis" | "millis"
            | "random" => made(Linear::fixed(SCALAR), Kind::Scalar),
            "type" => made(Linear::fixed(SCALAR), Kind::Text),
            "round" => {
                let digits = args.get(1).map_or(Some(0.0), |digits| number(digits))?;
                (digits.abs() <= DIGITS).then(|| made(Linear::fixed(SCALAR), Kind::Scalar))?
            }
            "string" => made(text, Kind::Text),
            "substring" | "substringBefore" | "substringAfter" | "trim" | "decodeUrl"
            | "decodeUrlComponent" | "base64decode" => made(weight, Kind::Text),
            "uppercase" | "lowercase" | "base64encode" | "encodeUrl" | "encodeUrlComponent" => {
                made(weight.times(3.0), Kind::Text)
            }
            "formatBase" => made(Linear::fixed(16.0 * SCALAR), Kind::Text),
            "formatNumber" | "fromMillis" | "now" => {
                let pictures = args.iter().skip(usize::from(name != "now"));
                let pictures: Vec<_> = pictures.collect();
                let made = Linear::fixed(if pictures.is_empty() {
                    2.0 * SCALAR
                } else {
                    PICTURED
                });
                pictures
                    .iter()
                    .all(|picture| is_plain_picture(picture))
                    .then(|| Estimate::of(cost.plus(made.handled()), made, Kind::Text))
            }
            "pad" => {
                let (width, fill) = (number(args.get(1)?)?, given.get(2));
                let filled = fill.map_or(4.0, |fill| self.most(fill.weight)) * PAD;
                (width.abs() <= PAD).then(|| made(weight.plus(Linear::fixed(filled)), Kind::Text))?
            }
            "join" => {
                let between = given.get(1).map_or(0.0, |between| self.most(between.weight));
                made(weight.plus(weight.count().times(between)), Kind::Text)
            }
            // Each character may become a text of its own.
            "split" => made(weight.times(VALUE + 1.0), Kind::Any),
            "keys" | "lookup" | "append" | "reverse" | "merge" | "shuffle" => made(weight, Kind::Any),
            "spread" => made(weight.times(2.0), Kind::Any),
            _ => None,
        }
    }

    /// `$map` and `$filter` with the function written where it is used.
    fn over_items(&mut self, name: &str, args: &[&'a AstNode]) -> Option<Estimate> {
        let [
            list,
            AstNode::Lambda {
                params,
                body,
                signature: None,
                ..
            },
        ] = args
        else {
            return None;
        };
        let items = self.value(list)?;
        let whole = Linear::fixed(self.most(items.weight));
        let context = Linear::fixed(self.most(self.context()));
        let made = self.framed(items, context, |walk| {
            let weights = [Linear::CONTEXT, Linear::fixed(SCALAR), whole];
            for (param, weight) in params.iter().zip(weights) {
                walk.bind(param, weight, Kind::Any);
            }
            walk.value(body)
        })?;
        match name {
            "filter" => Some(Estimate::of(made.cost, items.weight, Kind::Any)),
            _ => Some(made),
        }
    }
}

/// How many arguments a function takes that is known here.
fn arguments(name: &str) -> Option<usize> {
    Some(match name {
        "millis" | "random" => 0,
        "sum" | "count" | "max" | "min" | "average" | "length" | "number" | "abs" | "floor" | "ceil"
        | "sqrt" | "boolean" | "not" | "exists" | "type" | "string" | "uppercase" | "lowercase" | "trim"
        | "decodeUrl" | "decodeUrlComponent" | "base64decode" | "base64encode" | "encodeUrl"
        | "encodeUrlComponent" | "keys" | "reverse" | "merge" | "shuffle" | "spread" | "toMillis" => 1,
        "contains" | "power" | "round" | "substringBefore" | "substringAfter" | "formatBase"
        | "formatNumber" | "join" | "lookup" | "append" | "now" => 2,
        "substring" | "fromMillis" | "pad" | "split" => 3,
        _ => return None,
    })
}

/// A number that stands in the expression.
fn number(node: &AstNode) -> Option<f64> {
    match node {
        AstNode::Number(number) => Some(*number),
        AstNode::Unary { operand, .. } => number(operand),
        _ => None,
    }
}

/// Whether it is a short text in the expression that asks for no width, as `[Y,4-4]` does: those may be of any size.
fn is_plain_picture(node: &AstNode) -> bool {
    let AstNode::String(picture) = node else {
        return false;
    };
    let has_width = |marker: &str| {
        marker
            .split(']')
            .next()
            .is_some_and(|marker| marker.contains(','))
    };
    picture.len() <= PICTURE && !picture.split('[').skip(1).any(has_width)
}
