//! Plots in which something is lost, needed, wished for or found.

/// A toy is lost, searched for in the wrong places, and found.
pub const LOST: &str = r#"
hero friend: girl boy | boy girl | girl girl | boy boy | critter critter
wrong right: spot spot

<dawn:hero>

? <likes:hero>

{hero} had a {color} {toy} made of {toy.made}.
{hero.his} favorite toy was a {color} {toy}.
of all {hero.his} things, {hero} loved one {color} {toy} the most.
{elder} had given {hero} a {pretty} {color} {toy} for {hero.his} birthday.
every day, {hero} played with a {color} {toy} that {elder} had made out of {toy.made}.

that day, {hero} took the {toy} to the {outdoors} and {toy.did}.
{hero} carried it to the {outdoors}, {toy.did} and forgot the time.
{outdoors.at}, {hero} {toy.did} again and again.
{hero} {walk.walked} to the {outdoors} with the {toy} and {toy.did}. Then {hero.he} {outdoors.did}.
first {hero} {outdoors.did} {outdoors.at}. Then {hero.he} took the {toy} and {toy.did}.

but when it was time to go home, the {toy} was gone.
when {hero} looked up, {hero.he} could not see the {color} {toy} anywhere.
after a while {hero.he} turned around. Where was the {toy}?
then {hero} took a nap. When {hero.he} woke up, there was no {toy}.
suddenly {hero} stopped. The {color} {toy} was missing.

<sorrow:hero>

"Why are you crying?" <asked:friend>. "I have lost my {color} {toy}," <answered:hero>.
just then, {friend} came along. "what is wrong?" <asked:friend>. "my {toy} is gone," <answered:hero>.
{friend} heard {hero} and {~walk.walked} over. "let me help you look," <said:friend>. "What color is it?" "It is {color}," <answered:hero>.
{hero} told {friend}, who was {outdoors.doing} nearby. "Do not worry. We will find your {toy} together," <said:friend>.
"I can not find my {toy}," {hero} told {friend}. "it is {color}, and it is made of {toy.made}."

they looked {wrong}, but there was only {junk}.
first they searched {wrong}. All they found was {junk} and {~junk}.
{friend} looked {wrong}. "Nothing here but {junk}," <said:friend>.
was it {wrong}? no, there was just {junk}.
together they [checked|searched] {wrong}. They found {junk}, but no {toy}.

either

then {friend} looked {right}. "Here it is!" <cried:friend>.
then {friend} saw something {color} {right}. It was the {toy}!
at last {friend} bent down. There, {right}, lay the {color} {toy}.
"Look, {right}!" <cried:friend>. There was the {toy}.

<thanks:friend> <said:hero>. <glad:hero>
{hero} hugged {friend}. "Without you, I would have lost my {toy} for ever," {hero.he} said.
{hero} took the {toy} and let {friend} play with it for the rest of the {time}.
<glad:hero> "Now you may play with it first," {hero.he} told {friend}.

{hero} learned that [a friend is worth more than any {toy}|two pairs of eyes see more than one].
a lost thing is [easier to find|not so bad] when a friend helps to look.
friends help each other, and that is better than any toy.
from then on, {hero} and {friend} always {outdoors.did} together.

or

then {hero} [remembered|had an idea]. "I sat {right} to rest!" {hero.he} said. And there it was.
"Where were you before?" <asked:friend>. {hero} closed {hero.his} eyes. "I was {right}," {hero.he} said. They looked, and there lay the {toy}.
{hero} thought back. {hero.he} had put the {toy} down {right}. They {~walk.walked} there, and it had not moved.
"Think of each step," <said:friend>. {hero} did. It must be {right}! And it was.

<glad:hero>
{hero} picked up the {toy} and [kissed|hugged|shook] it.
"I will never leave you {right} again," {hero} told the {toy}.
"How silly of me!" {hero} laughed, and {friend} laughed too.

{hero} learned to [think before crying|stay calm and think back].
from that day on, {hero} always put {hero.his} things in the same place.
it helps to stop and think when something is lost.
now {hero} keeps the {color} {toy} on a shelf when {hero.he} {outdoors.did}.
those who look after their things do not have to look for them.

or

then they heard a noise. {right}, {mischief} was playing with the {toy}.
something moved {right}. It was {mischief}, and {mischief.he} had the {toy}!
"Look! {mischief} has it!" <cried:friend>. And really, {mischief} sat {right} with the {color} {toy}.

{hero} was not {angry}. {hero.he} gave {mischief} some {fruit}, and {mischief.he} let go of the {toy}.
"Please give it back," <said:hero>. {mischief} {mischief.cried} and dropped the {toy}.
{friend} held out some {fruit}. {mischief} {mischief.cried}, took the food and left the {toy} behind.

"{mischief.he} only wanted to play," <said:hero>. So they all played together.
"So you like my {toy} too," <said:hero>, and {mischief} {mischief.cried}.
now {mischief} comes to the {outdoors} every day to play with {hero} and {friend}.
{hero} learned that even a thief may just be [lonely|looking for a friend].

end

? <home:hero>
"#;

/// What was packed at the start is needed later.
pub const TRIP: &str = r#"
hero other: girl boy | boy girl | girl girl | boy boy | critter critter
spare: need

<opening:hero>

one {fair} {time}, {elder} said, "today we are going to the {trip}."
{hero} and {other} were going to the {trip} with {elder}.
"Wake up, {hero}! We are going to the {trip}," <cried:elder>.
in {fair.season}, the whole family went on a trip to the {trip}.
for weeks {hero} had been asking for it, and at last {elder} took {hero} and {other} to the {trip}.

{hero} packed a {need} into a {color} bag. {other} packed a {spare}.
before they left, {hero} put a {need} and some {fruit} into {hero.his} bag.
"What do you need a {need} for?" <asked:other>. "You never know," <answered:hero> and put it into the bag.
{hero} took a {need} along. {other} laughed and took just {few} {fruit}.
"Take only what you need," <said:elder>. {hero} chose a {need}, and {other} chose a {color} {toy}.

? {fair.line}. They sang all the way.
the ride took a long time. {other} fell asleep, and {hero} counted {~color} cars.
on the way they ate {fruit} and played guessing games.
"Are we there yet?" <asked:other> again and again.

{trip.at} they saw {trip.saw}.
the first thing they saw {trip.at} was {trip.saw}. "How {big} it is!" <cried:other>.
at last they came to the {trip}. {trip.saw} was waiting there.
"Look, {trip.saw}!" <cried:hero>. They had never seen such a thing before.

then they saw {trip.then}, and after that they {trip.did}.
{other} liked {trip.then} the most. {hero} {trip.did} and did not want to stop.
after that came {trip.then}. {elder} {trip.did} too and laughed like a child.
they {trip.did} and looked at {trip.then} for an hour.

but then {need.trouble}.
on the way back, {need.trouble}.
everything was fine until {need.trouble}.
suddenly {need.trouble}. "What shall we do now?" <asked:other>.

<fear:other>
"Oh no!" <cried:other>.
{elder} did not know what to do.
{other} looked into {other.his} bag, but there was nothing in it that could help.

then {hero} remembered the {need}. {hero.he} {need.solved}.
"Wait, I have a {need}!" <cried:hero>. {hero.he} {need.solved}.
{hero} opened the {color} bag and took out the {need}. Then {hero.he} {need.solved}.
"It is good that I packed the {need}," <said:hero>. {hero.he} {need.solved}.

"You were right to bring it," <said:other>.
<thanks:hero> <said:elder>.
{other} did not laugh at the {need} any more.
<glad:other> "next time I will pack one too," <said:other>.

? before they left, {elder} bought {trip.bought} for {hero} and one for {other}.
{hero} took home {trip.bought} to remember the day.

"What was the best thing?" <asked:elder>. "{trip.saw}," <answered:other>. "{trip.then}," <said:hero>.
at home they told everyone how they {trip.did} {trip.at}.
in the evening {hero} drew {trip.saw} and hung it up in the {~cozy} {hero.home}.
that night {hero} dreamed of {trip.saw} and {trip.then}.

a little thing in a bag can save a whole day.
{hero} learned that it is good to be ready.
those who think ahead have less to fear.
since then, nobody in the family goes anywhere without a {need}.
"If you are ready for anything, nothing can spoil your day," <said:elder>.
"#;

/// A wish comes true, has a bad side, and is taken back.
pub const WISH: &str = r#"
hero friend: boy girl | girl boy | girl girl | critter critter | boy boy
next: wish
count: 3..3

<opening:hero>

? <likes:hero>

one {time}, {hero} found a {keepsake} made of {keepsake.made} {spot}. {keepsake.mark}.
{spot} lay something shiny. It was a {keepsake}, and {keepsake.mark}.
{elder} had an old {keepsake} {nook}. One day {hero} took it out. {keepsake.mark}.
a strange old woman gave {hero} a {keepsake}. "it looks plain, but it is magic," she said.

{hero} rubbed it, and a voice said, "you have {count} wishes."
when {hero} held it up, it began to glow. "you have {count} wishes. Think before you speak," it whispered.
"{count} wishes are yours," said the {keepsake}. {hero} almost dropped it.

"I wish for {wish}!" <cried:hero>.
{hero} did not think long. "{wish}!" {hero.he} said.
"Then I want {wish}," <said:hero>.
"If that is true," <said:hero>, "I wish for {wish}."

there was a flash, and {wish.got}.
{hero} closed {hero.his} eyes. When {hero.he} opened them, {wish.got}.
it got dark, then bright again, and {wish.got}.
{hero} counted to {few}, and {wish.got}.

at first {hero} was {~glad}. But then {wish.bad}.
<glad:hero> but soon {wish.bad}.
it was fun for an hour. Then {wish.bad}.
"Hooray!" <cried:hero>. But it did not take long until {wish.bad}.

either

{friend} came by. "What happened here?" <asked:friend>. "I wished for {wish}," <answered:hero>.
"This is all because of your {keepsake}!" <cried:friend>.

so {hero} used the second wish. "I want {next}," {hero.he} said, and {next.got}.
"I have two wishes left," {hero} thought. {hero.he} wished for {next}, and {next.got}.

but that was no better, for {next.bad}.
{friend} shook {friend.his} head, because now {next.bad}.

"One wish is left," <said:friend>. "use it well."
<thought:hero> there was one last wish.

"I wish that everything was as before," <said:hero>. And so it was.
{hero} took the {keepsake} in both hands. "let all be as it was," {hero.he} said.

or

<sorrow:hero> "I wish it had never happened," {hero.he} said. And it was gone.
"Take it away!" <cried:hero>. That was the second wish, and it came true at once.

one wish was left. {friend} was ill and lay in bed. "I wish that {friend} gets well," <said:hero>.
now {hero} had one wish. {hero.he} thought of {friend}, who was {~sad}. "make {friend} happy," {hero.he} told the {keepsake}.
for the last wish {hero} took a whole day. Then {hero.he} said, "I wish that {friend} will always be my friend."

the {keepsake} glowed once more. "that was a good wish," it said.
"I was going to be anyway. But thank you," <said:friend>.
and in the morning {friend} stood at the door and laughed.

end

then the {keepsake} was just a {keepsake} again.
{hero} put the {keepsake} {nook} and never touched it again.
{hero} threw the {keepsake} into the deep river.
{hero} gave the {keepsake} to {mischief}, who carried it away.

{hero} learned to be careful what you wish for.
a wish is quickly made, but not so quickly unmade.
what you have is often better than what you want.
not every wish makes you happy, but a friend does.
after that, {hero} wished for nothing but {supper}, and {supper} there was.
"#;

/// A map with a riddle: steps, a place, and what is hidden there.
pub const TREASURE: &str = r#"
hero friend: boy girl | girl boy | boy boy | girl girl | critter critter
steps: 5..15
turn: 3..5
rest: steps + turn
goal: spot

<opening:hero>

? <shine>

one {time}, {hero} found an old map {nook}.
in a book of {elder}'s, {hero} found a map with a {color} cross on it.
{friend} came running with a bottle. In the bottle was a map!
when {hero} was looking for a {toy} {nook}, an old map fell out.

on it was written: go to the {outdoors} and take {steps} steps toward the {landmark}. Then look {goal}.
"Start at the {outdoors}," {hero} read. "take {steps} steps to the north, and look {goal}."
the map showed the {outdoors}, an arrow with the number {steps}, and a {color} cross {goal}.

"It is a treasure map!" <cried:friend>.
"Do you think there is gold?" <asked:friend>. "there is only one way to find out," <answered:hero>.
<glad:hero> "let us go!"
{friend} did not believe in it, but {friend.he} came along.

they packed a shovel, a {light} and {few} {fruit}.
they {walk.walked} to the {outdoors} {~fast}.
so they took a {light} and {walk.walked} to the {outdoors}.

? on the way they met {animal}, who {animal.cried}. "That means good luck," <said:friend>.
on the way they had to pass the {~landmark}. {friend} slipped and lost a shoe.
{fair.line}. It was a good day for a treasure.

{hero} counted aloud, up to {steps}.
{outdoors.at}, {friend} took {steps} big steps.
"One, two, three," {hero} counted, until {hero.he} came to {steps}.

either

then they looked {goal}. There was a box!
{goal}, just as the map had said, there was a chest.
and really, {goal} they found a {~small} box with a lock.

in it were {chest}.
{hero} opened the lid. It was full of {chest}.
"{chest}!" <cried:friend>. "And {~chest}!"

on top lay a note. "who finds this, may keep half and must hide the rest again."
there was a letter too. It was from {elder}! "Have fun, you two," it said.
"We share," <said:hero>. So each got half of the {chest}.

they put in a {color} {toy} for the next ones who would come and closed the box again.
{hero} drew a new map and hid it {nook} for someone else to find.
the best treasure is [the one you share|the day you had on the way].
{hero} and {friend} never told anyone where the box was: {goal}.

or

but {goal} there was only {junk}.
they looked {goal}, but found nothing except {junk}.
there was no treasure {goal}, just {junk}.

<sorrow:friend>
"All that way for {junk}!" <cried:friend>.
"Maybe we counted wrong," <said:hero>.

"Wait, your steps are bigger than mine," <said:hero>. They tried {rest} small steps in place of {steps}.
{hero} turned the map around. They had not seen the {turn} steps on the back. {steps} and {turn} make {rest}!
"It does not say {steps}, it says {rest}," <said:hero>. They took {turn} steps more.

this time the shovel hit something hard. It was a chest with {chest} in it.
and there it was: a box full of {chest}.
"Here!" <cried:friend>. They dug up a box with {chest}.

{hero} learned to look closely and not to give up.
those who read with care find more.
a mistake is only the end if you stop there.

or

{goal} sat {job}. "are you looking for this?" <asked:job>, and in {job.his} hand was a box.
but someone had been faster. {goal} stood {job} with a box.

"I hid it when I was as {small} as you are," <said:job>. "now it is yours."
"I drew that map {few} years ago," <said:job>. "I have waited for someone to find it."

in the box were {chest}, and {job} told them a story about each.
they opened the box together. It was full of {chest}.

old people have been children too, and that is the greatest treasure.
every treasure has a story, and the story is the better part.

end

? <home:hero>
"#;
