//! How much was asked of the allocator at once: shows a reader that believes a header.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Noting;

#[global_allocator]
static ALLOCATOR: Noting = Noting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is handed on to the system's allocator as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What `run` returns, and the largest piece of memory that this thread asked for in it.
pub fn largest<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let outer = LARGEST.replace(0);
    let result = run();
    let largest = LARGEST.replace(outer);
    note(largest);
    (result, largest)
}

#[test]
fn a_large_piece_is_noticed() {
    let (zeros, bytes) = largest(|| vec![0u8; 3 << 20]);
    assert_eq!((zeros.len(), bytes), (3 << 20, 3 << 20));
    let (_, bytes) = largest(|| Vec::<u64>::with_capacity(1000));
    assert_eq!(bytes, 8000);
}
