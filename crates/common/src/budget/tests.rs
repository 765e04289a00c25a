use proptest::prelude::*;

use super::*;

fn holder(tenant: &str, flow: &str) -> Holder {
    Holder::flow(&FlowId::from(flow), Some(&TenantId::from(tenant)))
}

#[test]
fn a_flow_and_a_tenant_have_their_share_and_the_rest_is_for_others() {
    let budget = Budget::new(100);
    let first = budget.try_take(holder("a", "1"), 25).unwrap();
    assert_eq!(budget.try_take(holder("a", "1"), 1).err(), Some(Spent::Flow));
    let second = budget.try_take(holder("a", "2"), 25).unwrap();
    assert_eq!(budget.check(&holder("a", "3"), 1), Err(Spent::Tenant));
    let others = [
        budget.try_take(holder("b", "4"), 25).unwrap(),
        budget.try_take(holder("c", "5"), 25).unwrap(),
    ];
    assert_eq!(budget.check(&holder("d", "6"), 1), Err(Spent::Whole));
    assert_eq!(budget.check(&Holder::default(), 1), Err(Spent::Whole));
    assert_eq!(budget.held(), budget.whole());
    drop((first, second, others));
    assert_eq!(budget.held(), 0);
    assert_eq!(budget.check(&Holder::default(), 100), Ok(()));
}

#[test]
fn what_is_refused_takes_nothing() {
    let budget = Budget::new(100);
    let mut permit = budget.try_take(holder("a", "1"), 20).unwrap();
    assert_eq!(permit.try_grow(6), Err(Spent::Flow));
    assert_eq!(permit.try_grow(usize::MAX), Err(Spent::Flow));
    assert_eq!((permit.bytes(), budget.held()), (20, 20));
    assert_eq!(permit.try_reach(25), Ok(()));
    assert_eq!(permit.try_reach(10), Ok(()), "it has more already");
    permit.shrink_to(5);
    permit.shrink_to(9);
    assert_eq!((permit.bytes(), budget.held()), (5, 5));
}

#[test]
fn who_holds_nothing_is_not_remembered() {
    let budget = Budget::new(1 << 20);
    for number in 0..1_000 {
        let flow = number.to_string();
        drop(budget.try_take(holder(&flow, &flow), number));
        drop(budget.try_take(holder(&flow, &flow), 1 << 30));
    }
    let held = budget.0.held.lock();
    assert_eq!((held.tenants.len(), held.flows.len()), (0, 0));
}

#[derive(Clone, Debug)]
enum Act {
    Take(u8, u8, usize),
    Grow(usize, usize),
    Shrink(usize, usize),
    Drop(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..3_u8, 0..6_u8, 0..40_usize).prop_map(|(tenant, flow, bytes)| Act::Take(tenant, flow, bytes)),
        (any::<usize>(), 0..40_usize).prop_map(|(which, bytes)| Act::Grow(which, bytes)),
        (any::<usize>(), 0..40_usize).prop_map(|(which, bytes)| Act::Shrink(which, bytes)),
        any::<usize>().prop_map(Act::Drop),
    ]
}

proptest! {
    /// Whatever is taken and given back in whatever order: no bound is ever exceeded, what is held is the sum of the
    /// permits, a refusal is right, and at the end everything is back.
    #[test]
    fn it_is_never_exceeded_and_always_returns_to_zero(acts in prop::collection::vec(act(), 0..200)) {
        let budget = Budget::new(100);
        let mut permits: Vec<Permit> = Vec::new();
        for act in acts {
            match act {
                Act::Take(tenant, flow, bytes) => {
                    let holder = holder(&tenant.to_string(), &flow.to_string());
                    let room = budget.check(&holder, bytes);
                    match budget.try_take(holder, bytes) {
                        Ok(permit) => { prop_assert!(room.is_ok()); permits.push(permit); }
                        Err(spent) => prop_assert_eq!(room, Err(spent)),
                    }
                }
                Act::Grow(which, bytes) if !permits.is_empty() => {
                    let which = which % permits.len();
                    let before = permits[which].bytes();
                    let grown = permits[which].try_grow(bytes).is_ok();
                    prop_assert_eq!(permits[which].bytes(), if grown { before + bytes } else { before });
                }
                Act::Shrink(which, bytes) if !permits.is_empty() => {
                    let which = which % permits.len();
                    let before = permits[which].bytes();
                    permits[which].shrink_to(bytes);
                    prop_assert_eq!(permits[which].bytes(), before.min(bytes));
                }
                Act::Drop(which) if !permits.is_empty() => drop(permits.swap_remove(which % permits.len())),
                _ => {}
            }
            let sum: usize = permits.iter().map(Permit::bytes).sum();
            let held = budget.0.held.lock();
            prop_assert_eq!(held.whole, sum);
            prop_assert!(held.whole <= 100);
            prop_assert!(held.tenants.values().all(|bytes| (1..=50).contains(bytes)));
            prop_assert!(held.flows.values().all(|bytes| (1..=25).contains(bytes)));
            prop_assert_eq!(held.flows.values().sum::<usize>(), sum);
            prop_assert_eq!(held.tenants.values().sum::<usize>(), sum);
        }
        drop(permits);
        let held = budget.0.held.lock();
        prop_assert_eq!((held.whole, held.tenants.len(), held.flows.len()), (0, 0, 0));
    }
}

#[test]
fn threads_that_take_at_once_never_exceed_it() {
    let budget = Budget::new(1_000);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let budget = budget.clone();
            scope.spawn(move || {
                for round in 0..2_000_usize {
                    let permit = budget.try_take(holder(&thread.to_string(), "f"), round % 200);
                    assert!(budget.held() <= 250, "all of it is one flow's");
                    drop(permit);
                }
            });
        }
    });
    assert_eq!(budget.held(), 0);
}
