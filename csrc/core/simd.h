// Which instruction sets the CPU loops are compiled for; the best one is chosen when the library
// is loaded. One wheel then runs everywhere, and no build needs -march=native.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && !defined(YOLODATA_ONE_TARGET)
#define YD_TARGETS __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define YD_TARGETS
#endif
