//! What the control groups that this process is in say of memory: a container has one, and so has a job of a cluster.
//!
//! In version 2 there is one tree of groups, in version 1 memory has its own. A process that sees no more of the tree than
//! its own group finds that at the root; where it sees more, each group above counts too.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const ROOT: &str = "/sys/fs/cgroup";

/// Bytes of memory that this process may use: what the machine has, or a group grants if that is less. Looked up once.
pub fn memory_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        // SAFETY: integers only.
        let [page, pages] = unsafe { [libc::sysconf(libc::_SC_PAGESIZE), libc::sysconf(libc::_SC_PHYS_PAGES)] };
        let machine = u64::try_from(page).unwrap_or(0).saturating_mul(u64::try_from(pages).unwrap_or(0));
        granted(Path::new(ROOT), &own()).map_or(machine, |granted| granted.min(machine))
    })
}

/// What this process's own group has by these names, in version 2 and in version 1.
pub(crate) fn files(unified_name: &str, name: &str) -> impl Iterator<Item = PathBuf> {
    let (root, groups) = (Path::new(ROOT), own());
    let unified = unified(root, &groups).map(|group| group.join(unified_name));
    unified.into_iter().chain(of_memory(root, &groups).map(|group| group.join(name)))
}

/// The least that one of these groups, or one above it, may have; `None`: there is no limit.
fn granted(root: &Path, groups: &str) -> Option<u64> {
    let found = [(unified(root, groups), "memory.max"), (of_memory(root, groups), "memory.limit_in_bytes")];
    let limits = found.iter().flat_map(|(group, file)| {
        let above = group.iter().flat_map(|group| group.ancestors()).take_while(|group| group.starts_with(root));
        above.filter_map(move |group| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok())
    });
    limits.min()
}

fn own() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// The group of version 2.
fn unified(root: &Path, groups: &str) -> Option<PathBuf> {
    Some(below(root, path_of("", groups)?))
}

/// The group of version 1 that bounds memory.
fn of_memory(root: &Path, groups: &str) -> Option<PathBuf> {
    Some(below(&root.join("memory"), path_of("memory", groups)?))
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Lines are `number:controllers:path`.
fn path_of<'a>(controller: &str, groups: &'a str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|one| one == controller).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A tree of groups with these files, which goes when the test ends.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("kumi-groups-{name}-{}", std::process::id()));
            for (file, text) in files {
                let file = root.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let files = [("memory.max", "max\n"), ("a/memory.max", "3000\n"), ("a/b/memory.max", "max\n")];
        let tree = Tree::new("up", &files);
        assert_eq!(granted(&tree.0, "0::/a/b\n"), Some(3000));
        assert_eq!(granted(&tree.0, "0::/\n"), None);
    }

    #[test]
    fn a_container_that_sees_only_itself_finds_its_limit_at_the_root() {
        let tree = Tree::new("root", &[("memory.max", "2000\n"), ("memory/memory.limit_in_bytes", "1000\n")]);
        assert_eq!(granted(&tree.0, "0::/\n"), Some(2000));
        assert_eq!(granted(&tree.0, "0::/docker/5f0c\n"), Some(2000));
        assert_eq!(granted(&tree.0, "5:cpu,memory:/docker/5f0c\n1:name=systemd:/\n0::/\n"), Some(1000));
    }

    #[test]
    fn without_groups_there_is_no_limit() {
        let tree = Tree::new("none", &[("a/memory.max", "nonsense")]);
        assert_eq!(granted(&tree.0, "0::/a\n"), None);
        assert_eq!(granted(&tree.0, ""), None);
        assert_eq!(granted(&tree.0.join("nowhere"), "0::/a\n"), None);
    }

    #[test]
    fn this_process_may_use_something() {
        assert!(memory_bytes() > 1 << 20);
    }
}
