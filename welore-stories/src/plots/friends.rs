//! Plots about being kind to each other.

/// Someone new is alone until somebody asks.
pub const FRIEND: &str = r#"
hero pal: girl boy | boy girl | girl girl | critter critter | boy boy
part: 2..6

<dawn:hero>

? <likes:hero>

one day a new {pal.kind} came to the {town}. {pal.his} name was {pal}.
a new {pal.kind} named {pal} moved into the {~cozy} {pal.home} next door.
then {hero} heard that a {pal.kind} called {pal} had moved to the {landmark}.
on the first day of {fair.season}, {hero} saw a {pal.kind} {hero.he} did not know. It was {pal}, who was new in the {town}.

{pal} did not know anyone. {pal.he} stood alone {outdoors.at}.
{pal} sat {spot} {outdoors.at} and watched the others. {pal.he} was {~sad}.
everyone else was {outdoors.doing}, but {pal} stood to the side and looked at {pal.his} feet.
nobody talked to {pal}. For {part} days {pal.he} sat alone {outdoors.at}.
{pal} held a {color} {toy} and did not say a word.

? "{pal.he} looks strange," someone whispered. {hero} did not like to hear that.
some of the others laughed at {pal.his} {color} {clothes}.
"Leave {pal.him} alone, {pal.he} never talks," someone said.

{hero} remembered how it feels to be alone.
<thought:hero>
"How would I feel in a new place?" {hero} wondered.
{hero} was [a little|a bit] {scared}, but {hero.he} {walk.walked} over.
"I will go and say hello," <said:hero>.

"{time.greet}! I am {hero}. What is your name?" "I am {pal}," came the answer, very softly.
"Hello, I am {hero}," <said:hero>. "do you want to play?" {pal} looked up. "yes, please. My name is {pal}."
{hero} held out {hero.his} hand. "My name is {hero}. Would you like to {outdoors.do} with us?"
"I like your {color} {clothes}," <said:hero>. "thank you. {elder} made it," <said:pal>.
"Can you show me how to {skill}?" <asked:hero>. {pal} nodded. {pal.he} could {skill} very well.

either

it turned out that {pal} also liked {hobby}.
"What do you like?" <asked:hero>. "{hobby}," <answered:pal>. "Me too!" <cried:hero>.
they talked about {hobby} and {~hobby} and found that they liked the same things.
{pal} knew everything about {hobby}, and {hero} wanted to hear it all.

they {outdoors.did} {time.rest}.
all {time} they {outdoors.did} and told each other jokes.
{hero} and {pal} {outdoors.did} and shared {few} {fruit}.
then they {outdoors.did}, and {pal} laughed for the first time.

or

{pal} had brought a {color} {toy}. They {toy.did}, first {pal} and then {hero}.
"This is my {toy}. It is made of {toy.made}," <said:pal>. {hero} had never seen one like it, and together they {toy.did}.
{pal} took a {toy} out of {pal.his} bag. Soon everybody came to see it.

the others came closer. "May we play too?" they asked. "Of course," <answered:pal>.
{hero} called the others, and in the end {few} of them {outdoors.did} together.
even the loudest of them wanted to play, and {pal} let them.

or

just then the kite of the others got stuck in a tree. {pal} climbed up and got it down.
then someone fell into the mud. {pal} ran and helped, and {hero} helped too.
suddenly {mischief} came and stole the {~fruit}. {pal} clapped {pal.his} hands so loudly that {mischief} dropped everything and ran.

everyone cheered for {pal}.
"That was brave!" <cried:hero>. Now everybody wanted to know {pal}.
"You can {skill}, and you help others. Please stay with us," <said:hero>.

end

<glad:pal>

when it was time to go, {pal} asked, "will you come back tomorrow?" "I promise," <answered:hero>.
"See you tomorrow!" <cried:pal>. And the next day they met {outdoors.at} again.
"Yesterday I had no friends, and now I have one," <said:pal>.
that evening {pal} told {elder}, "I have a friend. The {outdoors} is not lonely any more."

from then on, {hero} and {pal} were best friends.
one kind word can be the start of a friendship.
{hero} learned that saying hello is all it takes.
it is easy to be kind, and it can change someone's whole day.
a stranger is just a friend you do not know yet.
"#;

/// Food is shared, and the numbers have to come out right.
pub const SHARING: &str = r#"
hero friend: boy girl | girl boy | girl girl | critter critter | boy boy
have: 6..12
give: 2..4
left: have - give
more: 3..6
all: left + more

<dawn:hero>

{hero} had {have} {fruit} in a {color} basket.
{elder} gave {hero} a bag with {have} {fruit}. They were very {fruit.taste}.
one day {hero} found {have} {fruit} on the kitchen table. "They are for you," <said:elder>.
{hero} had saved all {hero.his} coins and bought {have} {fruit} at the market.
{hero} and {elder} had picked {have} {fruit.taste} {fruit}, and {hero} was allowed to keep them all.

{hero.he} sat down {outdoors.at} to eat them.
{hero} {walk.walked} to the {outdoors} and counted them. There were {have}, and not one less.
"Yum, {have} {fruit}, and all for me!" {hero} thought.
{hero} wanted to eat every {fruit.one} alone, {spot}.

then {friend} came by. {friend.he} had nothing to eat.
just then {hero} saw {friend}, who looked very hungry.
{friend} sat down next to {hero}. {friend.his} tummy rumbled.
"I forgot my lunch," <said:friend> and looked at the {fruit}.
along came {friend}. "What do you have there?" <asked:friend>.

either

<thought:hero> then {hero.he} gave {friend} {give} {fruit}. Now {hero} had {left} left.
"Here, take {give}," <said:hero>. {hero.he} still had {left} {fruit}.
{hero} counted out {give} {fruit} for {friend} and kept {left}.
"We can share," <said:hero>. {friend} got {give} of the {have} {fruit}, so {left} were left for {hero}.

<thanks:hero> <said:friend>. <glad:friend>
{friend} bit into the first {fruit.one}. "How {fruit.taste} it is!" <cried:friend>.
{friend} ate the {give} {fruit} {~fast}. <glad:friend>
"This is the best {fruit.one} I ever had," <said:friend>.

the next day, {friend} came back with {more} more {fruit}. Now {hero} had {all}.
{friend} did not forget it. A week later {friend.he} brought {hero} {more} {fruit}. {left} and {more} make {all}!
then {friend}'s {elder.kin} came and gave {hero} {more} {fruit} as thanks. "I had {left}, and now I have {all}!" <cried:hero>.
when {elder} heard of it, {elder.he} gave {hero} {more} {fruit}. So now there were {all}, and not just {left}.

those who share [get more than they give|are never alone].
{hero} learned that sharing makes everything taste better.
what you give to a friend comes back to you.
{left} {fruit} and a friend are more than {have} {fruit} alone.
sharing is a kind of counting where everybody wins.

or

"No, they are all mine," <said:hero>. {friend} walked away {~sad}.
{hero} hid the {fruit} {spot} and said nothing. {friend} went away.
"I need all {have} of them," <said:hero>. <sorrow:friend>
{hero} shook {hero.his} head and ate the first {fruit.one}. {friend} left without a word.

{hero} ate and ate, until {hero.his} tummy hurt. But {hero.he} was not happy.
after {give} {fruit}, {hero} was full. {left} were still there, and {hero.he} was alone.
soon {give} {fruit} were gone, and {left} were left. They did not taste {fruit.taste} any more.
{hero} ate {give}, but all {hero.he} could think of was {friend}'s sad face.

so {hero} ran after {friend}. "I am sorry. Please take the {left} that are left," {hero.he} said.
"I was wrong," {hero} told {friend} and gave {friend.him} the other {left} {fruit}.
{hero} {~walk.walked} to {friend} and held out the rest. "These {left} are for you. I should have shared."

"That is all right," <said:friend>, and they ate together.
{friend} smiled and gave one {fruit.one} back. "Let us eat together," <said:friend>.
<glad:friend> soon they {outdoors.did} as if nothing had happened.

{hero} learned that [a full basket does not make a full heart|food tastes better in good company].
it is never too late to share.
nobody is happy with {have} {fruit} and no friend.
it takes courage to say sorry, and {hero} had it.

end

? <happily:hero>
"#;

/// A promise to keep a secret, kept or not.
pub const SECRET: &str = r#"
hero friend third: girl boy girl | boy girl boy | girl girl boy | critter critter critter
days: 2..6

<opening:hero>

? {hero} had a friend named {friend}. They {outdoors.did} together every day.
{hero} and {friend} had been friends for {days} years.

one {time}, {friend} looked around and whispered, "I have a secret."
"Can you keep a secret?" <asked:friend>. "I think so," <answered:hero>.
{friend} pulled {hero} behind a tree. "promise that you will not tell anyone," {friend.he} said.
they were {outdoors.doing} {outdoors.at} when {friend} said, "I must tell you something. But it is a secret."

"Listen," <said:friend>. "{secret}."
{friend} bent down to {hero}'s ear. "{secret}," {friend.he} whispered.
"{secret}," said {friend}, so softly that only {hero} could hear it.

{friend} put a finger to {friend.his} lips. "no one must know, because {secret.reason}."
"Tell nobody, for {secret.reason}," <said:friend>. {hero} promised.
"Why is it a secret?" <asked:hero>. "because {secret.reason}," <answered:friend>.
{hero} gave {friend} {hero.his} hand on it. "I understand. {secret.reason}," {hero.he} said.

the next day, {third} came. "What did {friend} tell you?" <asked:third>.
after {days} days, {third} asked, "why do you two always whisper?"
{third} had seen them whisper. "If you tell me, I will give you my {color} {toy}," <said:third>.
"I know that you know something," <said:third>. "tell me, or I will not play with you."

either

{hero} wanted to tell. It tickled on {hero.his} tongue. But {hero.he} had given {hero.his} word.
{hero} thought of {friend}. "I can not tell you," <said:hero>.
"A promise is a promise," <said:hero>.
{hero} shook {hero.his} head. Not for a {toy}, and not for {few} of them!

{third} was {angry} and went away.
{third} asked {few} more times, but {hero} said nothing.
"You are no fun!" <cried:third> and ran off.

? it was hard for {hero}, who had to {outdoors.do} alone that day.
"Was that wrong?" {hero} asked {elder}. "no, it was right," said {elder}, who did not ask for the secret either.

later {friend} heard about it. "You did not tell! I can trust you," <said:friend>.
in the end {third} came back. "if you keep {friend}'s secret, you will keep mine too," {third.he} said.
after {days} days, {friend} told the secret to everyone. "only {hero} knew it, and {hero} said nothing," {friend.he} said.

a secret is safe with a true friend.
{hero} learned that trust is worth more than a {toy}.
who keeps a promise keeps a friend.
it is hard to be silent, but it can be the kindest thing to do.

or

{hero} did not want to tell. But then it just came out.
"All right, but do not tell anyone else," <said:hero>. Then {hero.he} told {third} the secret.
the {color} {toy} was so {pretty}! So {hero} told {third} everything.

soon the whole {town} knew it. <sorrow:friend>
{third} told it to {few} others before supper.
by evening, everyone knew it, and {friend} knew who had told.

"You promised!" <cried:friend>. "I told you that {secret.reason}!"
"I trusted you," <said:friend> and turned away.
{friend} did not want to talk to {hero} any more.

{hero} felt {~sad}. "I am sorry. I broke my promise, and I will never do it again," {hero.he} said.
for {days} days, {hero} sat alone {outdoors.at}. Then {hero.he} wrote a letter to say sorry.
{hero} went to {friend} and told {friend.him} a secret of {hero.his} own, so that they were even.

{friend} thought for a long time. Then {friend.he} gave {hero} {friend.his} hand.
"I forgive you," <said:friend>. "But it will take time."
it took {days} weeks until they {outdoors.did} together again.

words are like birds: once they are out, you can not catch them.
{hero} learned that a promise is easy to break and hard to mend.
trust grows slowly and falls fast.

end
"#;

/// A friend is ill; what helps, and what cheers up.
pub const SICK: &str = r#"
hero friend: girl boy | boy girl | girl girl | boy boy | critter critter
days: 3..7

<opening:hero>

<sky:hero>

{hero} waited for {friend}, but {friend.he} did not come.
{hero} {walk.walked} to {friend}'s {friend.home}. The curtains were closed.
{friend} had not come to play for {days} days.
"Where is {friend}?" <asked:hero>. "in bed," <answered:elder>.

{friend} had {ailment}.
"{friend} has {ailment} and must stay in bed for {days} days," <said:elder>.
{hero} heard that {friend} had {ailment}. <sorrow:hero>
"I have {ailment}," <said:friend> through the door.

{hero} wanted to help. {hero.he} remembered what {elder} always said: "for {ailment} you need {ailment.cure}."
"What helps?" <asked:hero>. "{ailment.cure}, and a good friend," <answered:elder>.
the doctor had told {friend} to try {ailment.cure}. But {friend} did not like it.
"Can I do something?" <asked:hero>. "yes, bring {friend.him} {ailment.cure}," <answered:elder>.

so {hero} came with {ailment.cure} and {cheer}.
{hero} packed a basket: {few} {fruit}, {cheer}, and a {color} {clothes}.
the next {time}, {hero} stood at the door with {cheer} and {fruit}.
first {hero} thought of {ailment.cure}. Then {hero.he} thought of {cheer}, for laughing helps too.

either

"I feel so {sad}," <said:friend>. {hero} sat down next to the bed.
{friend} looked pale. "I am bored," <said:friend>.
"Do not come too close," <said:friend>. So {hero} stayed at the window.

then {hero} took out {cheer}. {friend} had to smile.
"I have brought {cheer}," <said:hero>. For the first time in days, {friend} laughed.
they spent the whole {time} with {cheer}.

or

"I do not want any {ailment.cure}!" <cried:friend>.
{friend} turned to the wall. "Anything but {ailment.cure}," <said:friend>.

"If you take it, you will get {cheer}," <said:hero>.
{hero} made a game of it and pretended to have {ailment} too. {friend} laughed and forgot to say no.

end

{hero} came back every day. They talked about {hobby}.
every {time}, {hero} told {friend} what the others did {outdoors.at}.
for {days} days {hero} did not {outdoors.do}. {hero.he} sat with {friend} and read stories.

? on the second day, {friend} could sit up. On the third, {friend.he} ate {supper}.
"You must be tired of me," <said:friend>. "never," <said:hero>.

after {days} days, {friend} was well again.
{days} days later, the {ailment.noun} was gone.
then one morning, {friend} jumped out of bed. {days} days had been enough.

<thanks:hero> <said:friend>. <glad:friend>
"It was not {ailment.cure} that helped. It was {cheer}," <said:friend>.
they {outdoors.did} {outdoors.at}, and everything was as before.
"I hope I never get {ailment} again. But if I do, I hope you come," <said:friend>.

either

but now {hero} began to cough. "now it is my turn to bring you {ailment.cure}," <said:friend>.
a week later, {hero} had {ailment}. Guess who came with {ailment.cure} and {~cheer}!

friends take turns: one is ill, and one brings {ailment.cure}.
and that is what friends are for.

or

{hero} learned that a visit can be the best medicine.
a friend who comes on bad days is a friend for good days.
it takes so little to cheer someone up.
who is kind to the sick helps them twice.

end
"#;

/// A lost little animal and its mother; sound, home and coat tell which animal it is.
pub const STRAY: &str = r#"
hero friend: girl boy | boy girl | boy boy | girl girl
asked: job

<dawn:hero>

? <likes:hero>

{outdoors.at}, {hero} heard something. "{baby.sound}, {baby.sound}!"
one {time}, as {hero} {outdoors.did} {outdoors.at}, {hero.he} heard a faint "{baby.sound}" {spot}.
"{baby.sound}! {baby.sound}!" What was that? {hero} looked {spot}.
{hero} was on {hero.his} way to the {outdoors}. Then something went "{baby.sound}" {spot}.

it was a {~small} {baby} with {baby.coat}.
there sat a {baby}, all alone.
{hero} saw {baby.coat} and two big eyes. It was a {baby}.
a {~small} {baby} looked up at {hero}. It had {baby.coat} and was shaking.

"Have you lost your mother?" <asked:hero>. "{baby.sound}," said the {baby}.
"Poor thing! Where is your {baby.home}?" <asked:hero>.
{hero} picked it up {~softly}. It was so light!
"Do not be afraid," <said:hero>, and the {baby} stopped shaking.

? {hero} gave it some {baby.eats}, and it ate everything.
{hero} had no {baby.eats} with {hero.him}, so {hero.he} {walk.walked} home {~fast} to get some.
it was hungry, but it did not want any {fruit}. It wanted {baby.eats}.

? {hero} met {friend}. "may I keep it?" <asked:hero>. "it needs its mother," <answered:friend>.
"I would love to keep it," {hero} thought. But {hero.he} knew that somewhere a mother was looking for it.

either

they asked {asked} in the {asked.shop}. "A {baby} with {baby.coat}? Look at the {baby.home}," <said:asked>.
{hero} went to {asked}. "have you seen {baby.mother}?" {hero.he} asked. "yes, I have, near the {baby.home}," <answered:asked>.
{asked} was just outside the {asked.shop}. "I saw {baby.mother} run around near the {baby.home}," <said:asked>.

so {hero} carried the {baby} to the {baby.home}.
{hero} thanked {asked} and {~walk.walked} to the {baby.home}.
{friend} knew the way to the {baby.home}, and {hero} carried the {baby}.

or

"Let us listen," <said:friend>. They sat still. Far away, something called.
"Say it again," <said:hero>. "{baby.sound}," went the {baby}. And from far away came an answer.
then they saw tracks in the mud. {hero} and {friend} followed them for an hour.

the sound came from the {baby.home} by the {landmark}.
it led them past the {landmark} and to a {baby.home}.
behind the {landmark} they found the {baby.home}.

or

first {hero} met {mite}. "that {baby} is not mine," said {mite}.
"Is this your child?" {hero} asked {mite}. "no, mine are much smaller," said {mite}.
{hero} showed it to {mite}. But {mite} had never seen a {baby} before.

then {hero} thought about it. A {baby} eats {baby.eats} and lives in a {baby.home}. So {hero.he} went there.
"It has {baby.coat}, so it must be from the {baby.home}," <said:friend>.

end

there was {baby.mother}! "{baby.sound}!" cried the {baby} and ran to its mother.
and there {baby.mother} was waiting. She had looked for her {baby} all day.
{baby.mother} came out at once. The {baby} was home.
when {baby.mother} saw her {baby}, she jumped for joy.

<glad:hero>
{hero} was {~glad} and a bit {~sad} at the same time.
{friend} took {hero.his} hand. "you did the right thing," <said:friend>.
{hero} waved. "{baby.sound}," said the {baby}, and that meant thank you.

every {time} after that, {hero} brought some {baby.eats} to the {baby.home}.
whoever loves an animal lets it go home.
{hero} learned that the smallest ones need the most help.
a home is where your mother is, for a {baby} too.
one year later, a big animal with {baby.coat} came up to {hero} and went "{baby.sound}."
"#;

/// A big animal helps a small one, which later returns the favor.
pub const FAVOR: &str = r#"
days: 2..9

in a {~big} forest lived {beast}. {beast.he} was very {beast.trait}.
long ago, when animals could still talk, {beast} was the most {beast.trait} of all.
{beast} thought that nobody was as {big} and strong as {beast.he} was.
everyone in the forest was {scared} of {beast}, for {beast.he} was {beast.trait} and {big}.

near the {landmark} lived {mite}, who was {~small} but {trait}.
{mite} was so {small} that nobody ever noticed {mite.him}.
under a leaf not far away lived {mite}, the {trait} one.

one {fair} {time}, {mite} {snag}.
it was a {weather} {weather.season} day when {mite} {snag}.
once {mite} {snag}. "Help!" <cried:mite>.

{beast} heard it. First {beast.he} only laughed. But then {beast.he} {snag.brave}.
"Who is making such a noise?" asked {beast}. But {beast.he} had a good heart and {snag.brave}.
{beast} was just passing by. {beast.he} {snag.brave} and wanted to go on.
"You woke me up!" growled {beast}. Still, {beast.he} {snag.brave}.

"Thank you! One day I will help you too," said {mite}.
"I will never forget this. When you need me, call me," said {mite}.
{mite} bowed. "you saved me. I will do the same for you."

{beast} laughed. "you? You are much too {small} to help me."
"How could someone as {small} as you ever help me?" asked {beast} and went away.
"That is sweet of you," said {beast}, and {beast.he} had to hide a smile.

{days} days later, {beast} walked into a trap. A net fell over {beast.him}.
{days} weeks went by. Then hunters came and caught {beast} in a big net.
on the {days.nth} day after that, {beast} stepped on a rope, and a net pulled {beast.him} up.

{beast} pulled and bit, but the net held. The more {beast.he} fought, the tighter it got.
strong as {beast.he} was, {beast} could not get out.
{beast} roared so loudly that the leaves shook. But nobody dared to come near.

? "Now I will never see the {landmark} again," {beast} thought.
{mischief} came by, {mischief.cried} and ran away.

either

but {mite} heard the call and came {~fast}.
then a {~small} voice said, "do not move. I am here." It was {mite}.
far away, {mite} heard it. "That is my friend!" {mite.he} said and hurried to the net.

{mite} {mite.saved}.
all night long {mite} worked. {mite.he} {mite.saved}.
without a word, {mite} {mite.saved}.

or

"You are too {small}," said {beast}. "wait and see," said {mite}.
"What can you do?" asked {beast}. {mite} did not answer and set to work.

and then {mite} {mite.saved}.
{mite} looked for the weakest place. Then {mite.he} {mite.saved}.

end

at sunrise {beast} was free.
the net fell open, and {beast} stepped out.
before the hunters came back, {beast} and {mite} were gone.

"I laughed at you, and I was wrong," said {beast}. "you are {small}, but your heart is {big}."
"Remember that you {snag.brave} when I needed it?" said {mite}. "now we are even."
{beast} was no longer {beast.trait}. "thank you, little friend," {beast.he} said.
"Without you I would be lost," said {beast}. "forgive me for laughing."

from that day on, {beast} carried {mite} on {beast.his} back wherever they went.
nobody is too small to be a help.
one good turn deserves another.
a kind deed is never forgotten, not even by the smallest.
the big need the small, just as the small need the big.
"#;
