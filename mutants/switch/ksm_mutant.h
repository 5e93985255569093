/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One kernel holds all injected bugs. At most one of them is selected, by its number, and a
 * condition ksm_mutant(NUMBER) in the code stands for it; 0 selects none.
 */
#ifndef _LINUX_KSM_MUTANT_H
#define _LINUX_KSM_MUTANT_H

#include <linux/atomic.h>
#include <linux/compiler.h>
#include <linux/types.h>

extern unsigned int ksm_mutant_selected;
extern atomic_long_t ksm_mutant_hits;

static inline bool ksm_mutant(unsigned int number)
{
	if (likely(READ_ONCE(ksm_mutant_selected) != number))
		return false;
	atomic_long_inc(&ksm_mutant_hits);
	return true;
}

#endif
