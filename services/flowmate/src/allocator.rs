//! The allocator, and how its freed memory goes back to the system.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the allocator keeps what was freed, in milliseconds. With its own second the memory of the first password's
/// hash is partly never given back.
const PURGE_DELAY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "10");

/// Becomes the same program with the allocator set up: it reads its settings before `main` begins.
pub(crate) fn set_up() {
    #[cfg(unix)]
    restart_with(PURGE_DELAY);
}

#[cfg(unix)]
fn restart_with((name, value): (&str, &str)) {
    use std::os::unix::process::CommandExt;
    let mut words = std::env::args_os();
    if std::env::var_os(name).is_some() {
        return;
    }
    if let (Ok(program), Some(called)) = (std::env::current_exe(), words.next()) {
        let mut same = std::process::Command::new(program);
        // Returns only where it failed; then memory is the only thing that suffers.
        let _ = same.arg0(called).args(words).env(name, value).exec();
    }
}

/// mimalloc looks for what was freed a second ago, and returns it to the system, when a thread ends. Without that, the
/// memory of the last password hash or burst of webhooks would stay for as long as the server has nothing to do.
pub(crate) fn give_memory_back() {
    let thread = std::thread::spawn(|| drop(std::hint::black_box(Box::new(0_u8))));
    let _ = thread.join();
}
