// Macros of the assembly files. Strides (ys, xs, xk, ws, wk) are in bytes.

#define ZERO6(a, b, c, d, e, f) \
	VPXORD a, a, a; \
	VPXORD b, b, b; \
	VPXORD c, c, c; \
	VPXORD d, d, d; \
	VPXORD e, e, e; \
	VPXORD f, f, f

#define LOAD3(at, base, a, b, c) \
	VMOVUPS (at)(base), a; \
	VMOVUPS (at+64)(base), b; \
	VMOVUPS (at+128)(base), c

#define STORE3(at, base, a, b, c) \
	VMOVUPS a, (at)(base); \
	VMOVUPS b, (at+64)(base); \
	VMOVUPS c, (at+128)(base)

// ARGS loads a dots function's arguments: SI is x, AX, R10, R11, BX are rows of w, CX
// the number of columns; R12 is how many bytes ahead to prefetch.
#define ARGS \
	MOVQ y+0(FP), DI; \
	MOVQ x+8(FP), SI; \
	MOVQ w+16(FP), AX; \
	MOVQ ws+24(FP), R8; \
	MOVQ k+32(FP), CX; \
	LEAQ (R8)(R8*2), BX; \
	ADDQ AX, BX; \
	LEAQ (AX)(R8*1), R10; \
	LEAQ (AX)(R8*2), R11; \
	MOVQ $16384, R12

// DOTS begins a dots function of AVX-512: sums are Z0-Z3, in columns of 16 more
// Z4-Z7.
#define DOTS \
	ARGS; \
	ZERO6(Z0, Z1, Z2, Z3, Z4, Z5); \
	VPXORD Z6, Z6, Z6; \
	VPXORD Z7, Z7, Z7

// MASK sets K1 to the CX < 16 lowest lanes.
#define MASK \
	MOVL $1, DX; \
	SHLL CX, DX; \
	DECL DX; \
	KMOVW DX, K1

// SUMS adds Z4-Z7 to Z0-Z3, sums the lanes of each and stores four sums.
#define SUMS \
	VADDPS Z4, Z0, Z0; \
	VADDPS Z5, Z1, Z1; \
	VADDPS Z6, Z2, Z2; \
	VADDPS Z7, Z3, Z3; \
	VEXTRACTF64X4 $1, Z0, Y4; \
	VEXTRACTF64X4 $1, Z1, Y5; \
	VEXTRACTF64X4 $1, Z2, Y6; \
	VEXTRACTF64X4 $1, Z3, Y7; \
	SUMS8

// SUMS8 is SUMS of Y0-Y7.
#define SUMS8 \
	VADDPS Y4, Y0, Y0; \
	VADDPS Y5, Y1, Y1; \
	VADDPS Y6, Y2, Y2; \
	VADDPS Y7, Y3, Y3; \
	VHADDPS Y1, Y0, Y0; \
	VHADDPS Y3, Y2, Y2; \
	VHADDPS Y2, Y0, Y0; \
	VEXTRACTF128 $1, Y0, X1; \
	VADDPS X1, X0, X0; \
	VMOVUPS X0, (DI); \
	VZEROUPPER
