/** Bounds that several tables share. */

/**
 * Callers of which a table holds what was read or found out before: certificates, tokens, origins, groups, who is at work. One
 * number for all of them, beyond the 10,000 of `principals-max`: with fewer places than callers, one table alone would be
 * filled anew by every request.
 */
export const CALLERS_MAX = 16_384;
