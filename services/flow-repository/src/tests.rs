//! What happens by event and by time, on a real store, without an engine.

use flowmate_bus::local::{LocalBus, Options};
use flowmate_common::{
    Clock, Event, EventType, Pressure, Timestamp,
    auth::{TokenVerifier, Visibility},
    ids::{IdGenerator, TenantId, UserId},
    model::{FlowStarted, FlowStatus, Owner, OwnerKind, TenantChanged, UserChanged},
};
use flowmate_runtime::owning::Vouched;
use flowmate_storage::{Change, Filter, sqlite};
use serde_json::json;

use super::*;

/// More than a sweep takes at a time.
const MANY: usize = 450;

fn tenant() -> Caller {
    Caller {
        user: "u1".into(),
        username: "u1".into(),
        tenant: Some("t1".into()),
        permissions: vec!["all".into()],
        can_login: true,
        token: "t".into(),
    }
}

/// Nobody is an account of any tenant.
struct Nobody;

#[async_trait]
impl Accounts for Nobody {
    async fn identify(&self, _: &str, _: String) -> Result<Caller, Failure> {
        Err(Failure::not_found("nobody"))
    }

    async fn roams(&self, user: &UserId) -> Result<bool, Failure> {
        Ok(user.as_str() == "root")
    }

    async fn members(&self, _: &TenantId, _: Vec<UserId>) -> Result<Vec<UserId>, Failure> {
        Ok(Vec::new())
    }
}

async fn state(directory: &tempfile::TempDir) -> State {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000_000_000));
    let context = Context {
        storage: sqlite::open(directory.path()).unwrap(),
        bus: Arc::new(LocalBus::open(&directory.path().join("log"), Options::default()).unwrap()),
        tokens: TokenVerifier::new(clock.clone()),
        clock,
        ids: IdGenerator::counting(),
        tasks: tokio_util::task::TaskTracker::new(),
        shutdown: tokio_util::sync::CancellationToken::new(),
        services: None,
        pressure: Pressure::default(),
        consumers: flowmate_bus::consumers::Consumers::default(),
        budget: flowmate_common::Budget::new(1 << 20),
    };
    State {
        store: Repository::open(&context.storage).await.unwrap(),
        tenants: Tenants::open(&context.storage).await.unwrap(),
        accounts: Arc::new(Nobody),
        context,
    }
}

/// Flows in this status, which the tenant and a user own.
async fn flows(state: &State, count: usize, status: FlowStatus) {
    let body = json!({"name": "n", "graph": {"nodes": [{"id": "a", "componentId": "5ca5c44c187c040010a9bb8b", "function": "f"}], "edges": []}});
    let now = state.context.clock.now();
    for number in 0..count {
        let id = format!("{number:024}");
        let mut record =
            domain::create(id.into(), body.clone(), &tenant(), &Vouched::default(), now).unwrap();
        domain::start(&mut record, &tenant(), now).unwrap();
        record.turn(status, now);
        let event = store::starting(&state.context, &record).unwrap();
        state.store.add(&record, vec![event]).await.unwrap();
    }
    published(state, count).await;
}

/// What waits in the outbox, which is empty after this.
async fn published(state: &State, most: usize) -> Vec<Event> {
    let documents = state.context.storage.documents();
    let mut events = Vec::new();
    for (id, pending) in documents.pending(FlowRecord::SPEC, most).await.unwrap() {
        let ids = pending.iter().map(|event| event.id.to_string()).collect();
        documents.published(FlowRecord::SPEC, &id, ids).await.unwrap();
        events.extend(pending);
    }
    events
}

async fn count(state: &State, status: &str) -> u64 {
    let status = Filter::eq("status", status);
    state.store.count(&Visibility::All, &status).await.unwrap()
}

fn said(state: &State, disabled: bool, at: i64) -> Event {
    let said = TenantChanged {
        id: "t1".into(),
        disabled,
        updated_at: Timestamp::from_millis(at),
    };
    state
        .context
        .event(EventType::TenantModified, "t1", &said)
        .unwrap()
}

#[tokio::test]
async fn all_flows_of_a_disabled_tenant_stop_and_an_event_that_comes_again_stops_none() {
    let directory = tempfile::tempdir().unwrap();
    let state = state(&directory).await;
    flows(&state, MANY, FlowStatus::Active).await;
    // One that another tenant owns in the first place.
    let other = Owner {
        id: "t0".into(),
        kind: OwnerKind::Tenant,
    };
    let first = format!("{:024}", 0);
    let shared = state.store.change(&Visibility::All, &first, |record| {
        record.flow.body.owners.insert(0, other.clone());
        Ok(Change::Write(Vec::new()))
    });
    shared.await.unwrap();

    let disabled = said(&state, true, 5);
    events::iam::handle(&state, disabled.clone()).await.unwrap();
    assert_eq!(count(&state, "stopping").await, MANY as u64 - 1);
    let told = published(&state, MANY).await;
    assert_eq!(told.len(), MANY - 1);
    assert!(told.iter().all(|event| event.kind == EventType::FlowStopping));
    let flow = state
        .store
        .get(&Visibility::All, &format!("{:024}", 1))
        .await
        .unwrap()
        .unwrap()
        .flow;
    assert!(
        state.tenants.closes(&flow).await.unwrap(),
        "and cannot be started"
    );
    events::iam::handle(&state, disabled.clone()).await.unwrap();
    assert!(published(&state, MANY).await.is_empty(), "a second delivery");

    events::iam::handle(&state, said(&state, false, 6)).await.unwrap();
    assert!(!state.tenants.closes(&flow).await.unwrap());
    assert_eq!(
        count(&state, "stopping").await,
        MANY as u64 - 1,
        "none starts by itself"
    );
    events::iam::handle(&state, disabled).await.unwrap();
    assert!(
        !state.tenants.closes(&flow).await.unwrap(),
        "what is older is known"
    );
    assert_eq!(count(&state, "active").await, 1);
}

#[tokio::test]
async fn all_flows_of_who_left_the_tenant_stop_and_stay_with_the_tenant() {
    let directory = tempfile::tempdir().unwrap();
    let state = state(&directory).await;
    flows(&state, MANY, FlowStatus::Active).await;
    let modified = |id: &str, tenant: Option<&str>| {
        let user = UserChanged {
            id: id.into(),
            username: "u1".into(),
            tenant: tenant.map(TenantId::from),
        };
        state.context.event(EventType::UserModified, "u1", &user).unwrap()
    };
    events::iam::handle(&state, modified("u1", Some("t1")))
        .await
        .unwrap();
    assert_eq!(count(&state, "active").await, MANY as u64);
    let first = format!("{:024}", 0);
    let shared = state.store.change(&Visibility::All, &first, |record| {
        record.flow.body.owners.push(Owner {
            id: "root".into(),
            kind: OwnerKind::User,
        });
        Ok(Change::Write(Vec::new()))
    });
    shared.await.unwrap();
    events::iam::handle(&state, modified("root", None)).await.unwrap();
    let roams = Filter::OwnedBy("root".into());
    assert_eq!(state.store.count(&Visibility::All, &roams).await.unwrap(), 1);
    for _ in ["first", "again"] {
        events::iam::handle(&state, modified("u1", None)).await.unwrap();
        // One has another user still.
        assert_eq!(count(&state, "stopping").await, MANY as u64 - 1);
    }
    assert_eq!(published(&state, MANY).await.len(), MANY - 1);
    let owned = Filter::OwnedBy("u1".into());
    assert_eq!(state.store.count(&Visibility::All, &owned).await.unwrap(), 0);
}

#[tokio::test]
async fn all_flows_of_a_deleted_user_stop_and_stay_with_the_tenant_until_it_is_deleted_too() {
    let directory = tempfile::tempdir().unwrap();
    let state = state(&directory).await;
    flows(&state, MANY, FlowStatus::Active).await;
    let user = UserChanged {
        id: "u1".into(),
        username: "u1".into(),
        tenant: Some("t1".into()),
    };
    let deleted = state.context.event(EventType::UserDeleted, "u1", &user).unwrap();
    events::iam::handle(&state, deleted.clone()).await.unwrap();
    assert_eq!(count(&state, "stopping").await, MANY as u64);
    assert_eq!(published(&state, MANY).await.len(), MANY);
    events::iam::handle(&state, deleted).await.unwrap();
    assert!(published(&state, MANY).await.is_empty(), "a second delivery");

    let owned = async |owner: &str| {
        let owned = Filter::OwnedBy(owner.into());
        state.store.count(&Visibility::All, &owned).await.unwrap()
    };
    assert_eq!((owned("u1").await, owned("t1").await), (0, MANY as u64));
    let gone = TenantChanged {
        id: "t1".into(),
        disabled: false,
        updated_at: Timestamp::default(),
    };
    let deleted = state
        .context
        .event(EventType::TenantDeleted, "t1", &gone)
        .unwrap();
    events::iam::handle(&state, deleted).await.unwrap();
    assert_eq!(owned("t1").await, 0);
}

#[tokio::test]
async fn a_start_that_the_sweep_did_not_see_is_stopped_when_it_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let state = state(&directory).await;
    events::iam::handle(&state, said(&state, true, 5)).await.unwrap();
    flows(&state, 1, FlowStatus::Starting).await;
    let flow = state
        .store
        .get(&Visibility::All, &format!("{:024}", 0))
        .await
        .unwrap()
        .unwrap();
    let started = FlowStarted {
        id: flow.flow.id.clone(),
        activation: flow.activation,
        cron: None,
        owners: Vec::new(),
        flow_settings: None,
    };
    let started = state
        .context
        .event(EventType::FlowStarted, flow.flow.id.as_str(), &started)
        .unwrap();
    events::flows::handle(&state, started).await.unwrap();
    assert_eq!(count(&state, "stopping").await, 1);
    assert_eq!(published(&state, 9).await[0].kind, EventType::FlowStopping);
}

#[tokio::test]
async fn flows_that_wait_too_long_for_the_engine_are_asked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let state = state(&directory).await;
    flows(&state, 3, FlowStatus::Starting).await;
    let id = format!("{:024}", 1);
    let stopping = state.store.change(&Visibility::All, &id, |record| {
        record.turn(FlowStatus::Stopping, state.context.clock.now());
        record.activation = 7;
        Ok(Change::Write(Vec::new()))
    });
    stopping.await.unwrap();
    // As a version left it that did not note when to ask again.
    let id = format!("{:024}", 2);
    let old = state.store.change(&Visibility::All, &id, |record| {
        record.ask_again = None;
        Ok(Change::Write(Vec::new()))
    });
    old.await.unwrap();
    assert_eq!(reconcile::once(&state).await.unwrap(), 1, "the old one at once");
    published(&state, 9).await;

    state.context.clock.advance(29_999);
    assert_eq!(reconcile::once(&state).await.unwrap(), 0);
    state.context.clock.advance(1);
    assert_eq!(reconcile::once(&state).await.unwrap(), 2);
    let told = published(&state, 9).await;
    let told = told.iter().map(|event| {
        let body: Value = event.body().unwrap();
        (event.kind, body["activation"].as_u64().unwrap())
    });
    let expected = [(EventType::FlowStarting, 1), (EventType::FlowStopping, 7)];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(reconcile::once(&state).await.unwrap(), 0, "not at every look");
    state.context.clock.advance(60_000);
    assert_eq!(reconcile::once(&state).await.unwrap(), 3);
}
