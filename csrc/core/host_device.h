// The one file that knows which compiler is at work.
#pragma once

#if defined(__CUDACC__)
#define YD_HD __host__ __device__ __forceinline__
#else
#define YD_HD inline __attribute__((always_inline))
#endif
