//! What is deployed: the manifests are valid for the real schemas, and name the services there are.

use std::path::{Path, PathBuf};

use crate::tools::{command, present, succeed};

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

const SERVICES: [&str; 7] = [
    "api-gateway",
    "user-iam",
    "flow-repository",
    "template-repository",
    "webhook",
    "execution-log",
    "flow-engine",
];

/// The overlay as Kubernetes would get it, in a file.
async fn rendered(overlay: &str, directory: &Path) -> (PathBuf, String) {
    let copy = directory.join("k8s");
    if !copy.exists() {
        succeed(command("cp").arg("-r").arg(top().join("k8s")).arg(&copy)).await;
        // As the overlay for development says.
        let keys = copy.join("overlays/dev/keys");
        succeed(command(env!("CARGO_BIN_EXE_flowmate")).arg("key").arg(keys)).await;
    }
    let manifests = succeed(
        command("kubectl")
            .arg("kustomize")
            .arg(copy.join("overlays").join(overlay)),
    )
    .await;
    let file = directory.join(format!("{overlay}.yaml"));
    std::fs::write(&file, &manifests).unwrap();
    (file, manifests)
}

#[tokio::test]
async fn the_manifests_fit_the_schemas_of_kubernetes() {
    if !present(&["kubectl", "kubernetes-validate"]).await {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for overlay in ["dev", "production"] {
        let (file, manifests) = rendered(overlay, directory.path()).await;
        let mut validate = command("kubernetes-validate");
        succeed(validate.args(["-k", "1.32", "--strict"]).arg(file)).await;
        for service in SERVICES {
            assert!(
                manifests.contains(&format!("      - args:\n        - {service}\n")),
                "{overlay}: {service} is not deployed"
            );
        }
        assert!(!manifests.contains("automountServiceAccountToken: true"));
        assert_eq!(
            manifests.matches("readOnlyRootFilesystem: true").count(),
            SERVICES.len() + 1,
            "{overlay}: every container of ours, the topics' too"
        );
    }
}
