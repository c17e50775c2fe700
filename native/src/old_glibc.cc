// What the C++ library takes from glibc 2.32 and can do without. The addon should load wherever Node does (glibc 2.28).

/**
 * Whether the process has no second thread, so that counts of references need no atomic operation. "No" is always right:
 * Node has several. Hidden, so that nobody else gets this one.
 */
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
